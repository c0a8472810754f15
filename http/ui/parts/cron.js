/** Cron expressions in words, as far as a few words say them; else the expression itself. */

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const SHORT_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/** @type {Record<string, string>} */
const NAMED = {
  "@hourly": "every hour",
  "@daily": "every day at 00:00",
  "@midnight": "every day at 00:00",
  "@weekly": "every Sunday at 00:00",
  "@monthly": "on the 1st of each month at 00:00",
  "@yearly": "every 1 January at 00:00",
  "@annually": "every 1 January at 00:00",
};

/**
 * Returns an expression in words; empty if there are none that say it exactly.
 *
 * @param {string} expression
 */
export function cronWords(expression) {
  const [, zone = "", bare = expression] = /^(?:CRON_)?TZ=(\S+)\s+(.*)$/.exec(expression) ?? [];
  const words = bareWords(bare.trim());
  return words && zone ? `${words}, ${zone}` : words;
}

/** @param {string} bare */
function bareWords(bare) {
  if (NAMED[bare]) return NAMED[bare];
  if (bare.startsWith("@every ")) return `every ${bare.slice(7)}`;
  const fields = bare.split(/\s+/);
  if (fields.length === 6 && fields[0] !== "0") return "";
  const [minute = "", hour = "", day = "", month = "", weekday = ""] = fields.slice(-5);
  if (fields.length < 5 || month !== "*") return "";
  const when = days(day, weekday);
  if (!when) return "";
  const step = /^\*\/(\d+)$/.exec(minute)?.[1];
  if (hour === "*" && when === "every day") {
    if (minute === "*" || step === "1") return "every minute";
    if (step) return `every ${step} minutes`;
    if (/^\d+$/.test(minute)) return minute === "0" ? "every hour" : `every hour, ${minute} minutes past`;
  }
  const hours = /^\*\/(\d+)$/.exec(hour)?.[1];
  if (hours && /^\d+$/.test(minute) && when === "every day") return `every ${hours} hours, ${minute} minutes past`;
  if (!/^\d+$/.test(minute) || !/^\d+(,\d+)*$/.test(hour)) return "";
  return `${when} at ${hour.split(",").map((one) => `${one.padStart(2, "0")}:${minute.padStart(2, "0")}`).join(" and ")}`;
}

/**
 * @param {string} day
 * @param {string} weekday
 */
function days(day, weekday) {
  if (day === "*" && weekday === "*") return "every day";
  if (day !== "*" && weekday !== "*") return "";
  if (weekday === "*") return /^\d+$/.test(day) ? `on the ${ordinal(Number(day))} of each month` : "";
  if (/^(1-5|MON-FRI)$/i.test(weekday)) return "on working days";
  const named = weekday.split(",").map((one) => DAYS[/^\d$/.test(one) ? Number(one) % 7 : SHORT_DAYS.indexOf(one.toUpperCase())]);
  return named.every(Boolean) ? `every ${named.join(" and ")}` : "";
}

/** @param {number} number */
function ordinal(number) {
  const teen = number % 100 > 10 && number % 100 < 14;
  return `${number}${teen ? "th" : (["th", "st", "nd", "rd"][number % 10] ?? "th")}`;
}
