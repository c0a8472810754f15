// Writes examples with indents, gives every command a button that copies it, and adds the endpoints of
// each group to the contents.
for (const example of document.querySelectorAll("pre.json")) {
  example.textContent = JSON.stringify(JSON.parse(example.textContent ?? ""), null, 2);
}

for (const command of document.querySelectorAll("pre:not(.json)")) {
  const line = command.textContent ?? "";
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy ${line.slice(0, 80)}`);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(line);
      button.textContent = "Copied";
    } catch {
      getSelection()?.selectAllChildren(command); // Without HTTPS there is no clipboard.
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  const box = document.createElement("div");
  box.className = "command-box";
  command.replaceWith(box);
  box.append(command, button);
}

for (const link of document.querySelectorAll('nav a[href^="#group-"]')) {
  const entries = [];
  let next = document.getElementById(link.hash.slice(1))?.nextElementSibling;
  for (; next && next.tagName !== "H2"; next = next.nextElementSibling) {
    if (next.tagName !== "H3") continue;
    const entry = document.createElement("a");
    entry.href = `#${next.id}`;
    entry.textContent = next.textContent;
    entries.push(entry);
  }
  if (entries.length === 0) continue;
  const part = document.createElement("details");
  const title = document.createElement("summary");
  title.textContent = link.textContent;
  link.replaceWith(part);
  link.textContent = "All";
  part.append(title, link, ...entries);
}

function show() {
  for (const entry of document.querySelectorAll("nav details a")) {
    if (entry.hash === location.hash) entry.closest("details").open = true;
  }
}
addEventListener("hashchange", show);
show();
