//! Workflows of ours for the Rust SDK, and a worker that runs them.
//!
//! `workflows URL GROUP [TTL_MS]` is a worker: it has the same workflows as
//! `../python/workflows.py` and understands the same commands. This SDK tries no step again by
//! itself, so the saga does it.

use std::fs;
use std::future::IntoFuture;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use resonate_sdk::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

const GATE_POLL: Duration = Duration::from_millis(20);

/// Tell the test what has happened.
fn say(event: Value) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{event}").expect("the test reads");
}

/// Append a line to a file that outlives this process; return whether it was not there yet.
fn note(journal: &str, line: &str) -> bool {
    let before = fs::read_to_string(journal).unwrap_or_default();
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(journal)
        .expect("the journal can be written");
    file.write_all(format!("{line}\n").as_bytes())
        .expect("the journal can be written");
    !before.lines().any(|noted| noted == line)
}

/// Return the error of a step that fails.
fn failure<T>(message: &str) -> Result<T> {
    Err(Error::Application {
        message: message.to_string(),
    })
}

/// One step.
#[resonate_sdk::function]
async fn hello(ctx: &Context, name: String) -> Result<String> {
    ctx.run(greet, name).await
}

#[resonate_sdk::function]
async fn greet(name: String) -> Result<String> {
    Ok(format!("hello, {name}"))
}

#[derive(Serialize, Deserialize)]
struct Price {
    price: u64,
    by: u32,
}

/// A step that runs in a worker of another group.
#[resonate_sdk::function]
async fn order(ctx: &Context, item: String, count: u64, shop: String) -> Result<Value> {
    let answer: Price = ctx.rpc("price", item).target(&shop).await?;
    Ok(json!({
        "total": answer.price * count,
        "priced_by": answer.by,
        "ordered_by": std::process::id(),
    }))
}

#[resonate_sdk::function]
async fn price(item: String) -> Result<Price> {
    Ok(Price {
        price: item.len() as u64,
        by: std::process::id(),
    })
}

/// Many steps at once, each a task of its own.
#[resonate_sdk::function]
async fn fan_out(ctx: &Context, count: u64, group: String) -> Result<Vec<u64>> {
    let futures = (0..count)
        .map(|number| ctx.rpc("double", number).target(&group).spawn())
        .collect::<Result<Vec<RemoteFuture<u64>>>>()?;
    let mut doubled = Vec::new();
    for future in futures {
        doubled.push(future.await?);
    }
    Ok(doubled)
}

#[resonate_sdk::function]
async fn double(number: u64) -> Result<u64> {
    Ok(2 * number)
}

/// A sleep that needs no process.
#[resonate_sdk::function]
async fn nap(ctx: &Context, duration_ms: u64, _group: String) -> Result<String> {
    ctx.sleep(Duration::from_millis(duration_ms)).await?;
    Ok("awake".to_string())
}

/// A saga: one step is tried again, one fails for good, and what was done is undone.
#[resonate_sdk::function]
async fn trip(ctx: &Context, journal: String) -> Result<String> {
    let mut booked = Vec::new();
    for what in ["flight", "hotel", "car"] {
        let mut attempt = ctx.run(book, (journal.clone(), what.to_string())).await;
        if attempt.is_err() && what != "car" {
            attempt = ctx.run(book, (journal.clone(), what.to_string())).await;
        }
        match attempt {
            Ok(()) => booked.push(what),
            Err(Error::Application { message }) => {
                for done in booked.into_iter().rev() {
                    ctx.run(cancel, (journal.clone(), done.to_string())).await?;
                }
                return Ok(format!("cancelled: {message}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok("booked".to_string())
}

#[resonate_sdk::function]
async fn book(journal: String, what: String) -> Result<()> {
    let is_first_attempt = note(&journal, &format!("book {what}"));
    match what.as_str() {
        "car" => failure("no car left"),
        "hotel" if is_first_attempt => failure("the hotel's line is busy"),
        _ => Ok(()),
    }
}

#[resonate_sdk::function]
async fn cancel(journal: String, what: String) -> Result<()> {
    note(&journal, &format!("cancel {what}"));
    Ok(())
}

/// A workflow that fails because a step of it does.
#[resonate_sdk::function]
async fn refused(ctx: &Context, reason: String) -> Result<()> {
    ctx.run(refuse, reason).await
}

#[resonate_sdk::function]
async fn refuse(reason: String) -> Result<()> {
    failure(&reason)
}

/// Wait for a person, who completes a promise.
#[resonate_sdk::function]
async fn expense(ctx: &Context, amount: u64) -> Result<String> {
    let question: RemoteFuture<String> = ctx.promise().create()?;
    say(json!({"event": "asked", "id": question.id().await?}));
    Ok(format!("{amount}: {}", question.await?))
}

/// Call itself, through the server.
#[resonate_sdk::function]
async fn fibonacci(ctx: &Context, number: u64, group: String) -> Result<u64> {
    if number < 2 {
        return Ok(number);
    }
    let call = |number: u64| -> Result<RemoteFuture<u64>> {
        ctx.rpc("fibonacci", (number, &group))
            .target(&group)
            .spawn()
    };
    let (before, before_that) = (call(number - 1)?, call(number - 2)?);
    Ok(before.await? + before_that.await?)
}

/// Start something that this workflow does not wait for, and return its id.
#[resonate_sdk::function]
async fn shipment(ctx: &Context, journal: String, group: String) -> Result<String> {
    ctx.detached("send_mail", journal)
        .target(&group)
        .spawn()?
        .id()
        .await
}

#[resonate_sdk::function]
async fn send_mail(journal: String) -> Result<String> {
    note(&journal, "mail sent");
    Ok("sent".to_string())
}

/// What a schedule starts.
#[resonate_sdk::function]
async fn tick(journal: String) -> Result<String> {
    note(&journal, "tick");
    Ok("ticked".to_string())
}

/// Two steps; during the second one, this process is killed.
#[resonate_sdk::function]
async fn report(ctx: &Context, gate: String) -> Result<Value> {
    let counted_by: u32 = ctx.run(count_pages, ()).await?;
    let printed_by: u32 = ctx.run(print_pages, gate).await?;
    Ok(json!({"counted_by": counted_by, "printed_by": printed_by}))
}

#[resonate_sdk::function]
async fn count_pages() -> Result<u32> {
    say(json!({"event": "counts"}));
    Ok(std::process::id())
}

#[resonate_sdk::function]
async fn print_pages(gate: String) -> Result<u32> {
    say(json!({"event": "prints"}));
    while !Path::new(&gate).exists() {
        tokio::time::sleep(GATE_POLL).await;
    }
    Ok(std::process::id())
}

/// Steps, calls and sleeps in turn, so that something is always under way.
#[resonate_sdk::function]
async fn journey(ctx: &Context, stages: u64, journal: String, group: String) -> Result<Vec<u64>> {
    let mut reached = Vec::new();
    for stage in 0..stages {
        ctx.run(reach, (journal.clone(), stage)).await?;
        reached.push(ctx.rpc("double", stage).target(&group).await?);
        ctx.sleep(Duration::from_millis(100)).await?;
    }
    Ok(reached)
}

#[resonate_sdk::function]
async fn reach(journal: String, stage: u64) -> Result<()> {
    note(&journal, &format!("stage {stage}"));
    Ok(())
}

/// A command of the test.
#[derive(Deserialize)]
struct Command {
    r#do: String,
    id: String,
    #[serde(default)]
    function: String,
    #[serde(default)]
    arguments: Vec<Value>,
    #[serde(default)]
    cron: String,
}

/// Return arguments as this SDK has them: a single one stands alone.
fn spread(mut arguments: Vec<Value>) -> Value {
    if arguments.len() == 1 {
        arguments.remove(0)
    } else {
        Value::Array(arguments)
    }
}

/// Run a workflow and return its result as JSON.
async fn run<D, Args, T>(
    resonate: &Resonate,
    id: &str,
    function: D,
    arguments: Value,
) -> Result<Value>
where
    D: Durable<Args, T>,
    Args: Serialize + DeserializeOwned + Send,
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let arguments: Args = serde_json::from_value(arguments)?;
    let value = resonate.run(id, function, arguments).into_future().await?;
    Ok(serde_json::to_value(value)?)
}

/// Do what a command says, and return its value, if it has one.
async fn carry_out(resonate: &Resonate, command: Command) -> Result<Value> {
    let (id, arguments) = (command.id.as_str(), spread(command.arguments));
    match (command.r#do.as_str(), command.function.as_str()) {
        ("run", "hello") => run(resonate, id, hello, arguments).await,
        ("run", "order") => run(resonate, id, order, arguments).await,
        ("run", "fan_out") => run(resonate, id, fan_out, arguments).await,
        ("run", "nap") => run(resonate, id, nap, arguments).await,
        ("run", "trip") => run(resonate, id, trip, arguments).await,
        ("run", "refused") => run(resonate, id, refused, arguments).await,
        ("run", "expense") => run(resonate, id, expense, arguments).await,
        ("run", "fibonacci") => run(resonate, id, fibonacci, arguments).await,
        ("run", "shipment") => run(resonate, id, shipment, arguments).await,
        ("run", "report") => run(resonate, id, report, arguments).await,
        ("run", "journey") => run(resonate, id, journey, arguments).await,
        ("wait", _) => resonate.get::<Value>(id).await?.result().await,
        ("schedule", function) => {
            resonate
                .schedule(id, &command.cron, function, arguments)
                .await?;
            Ok(Value::Null)
        }
        ("unschedule", _) => {
            resonate.schedules.delete(id).await?;
            Ok(Value::Null)
        }
        (what, function) => failure(&format!("unknown command {what} {function}")),
    }
}

/// Do what a command says, and say what came of it.
async fn obey(resonate: Arc<Resonate>, command: Command) {
    let (id, done) = (command.id.clone(), command.r#do.clone());
    say(match carry_out(&resonate, command).await {
        Ok(value) => json!({"id": id, "done": done, "value": value}),
        Err(error) => json!({"id": id, "done": done, "error": error.to_string()}),
    });
}

/// Be a worker until the input ends.
#[tokio::main]
async fn main() -> Result<()> {
    let given: Vec<String> = std::env::args().collect();
    let resonate = Arc::new(Resonate::new(ResonateConfig {
        url: Some(given[1].clone()),
        group: Some(given[2].clone()),
        ttl: given
            .get(3)
            .map(|text| text.parse().expect("TTL_MS is a number")),
        ..Default::default()
    }));
    resonate.register(hello)?;
    resonate.register(greet)?;
    resonate.register(order)?;
    resonate.register(price)?;
    resonate.register(fan_out)?;
    resonate.register(double)?;
    resonate.register(nap)?;
    resonate.register(trip)?;
    resonate.register(book)?;
    resonate.register(cancel)?;
    resonate.register(refused)?;
    resonate.register(refuse)?;
    resonate.register(expense)?;
    resonate.register(fibonacci)?;
    resonate.register(shipment)?;
    resonate.register(send_mail)?;
    resonate.register(tick)?;
    resonate.register(report)?;
    resonate.register(count_pages)?;
    resonate.register(print_pages)?;
    resonate.register(journey)?;
    resonate.register(reach)?;
    say(json!({"event": "ready"}));

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        tokio::spawn(obey(resonate.clone(), serde_json::from_str(&line)?));
    }
    resonate.stop().await
}
