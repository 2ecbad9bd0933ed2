//! What a run found, as a summary to read, as JSON, as HdrHistogram percentiles and as CSV.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::plan::{Pace, Plan, Reuse, Target};
use super::tally::Tally;
use super::watch::{Core, Watched};

/// The percentiles that are named, with their keys in JSON.
const PERCENTILES: [(f64, &str); 6] = [
    (50.0, "p50"),
    (75.0, "p75"),
    (90.0, "p90"),
    (99.0, "p99"),
    (99.9, "p99.9"),
    (99.99, "p99.99"),
];
/// Steps of the percentile file for each halving of the distance to 100 %.
const STEPS_PER_HALF: u32 = 5;
/// A driver that used this share of its time or more was the bottleneck itself.
const DRIVER_BOUND: f64 = 0.95;
/// From this share of requests that were late the target did not keep up with the rate. The last
/// that was due may be sent just behind the end by whoever does keep up.
const LATE_SHARE: f64 = 0.01;
const MS_PER_NS: f64 = 1e-6;

/// The run for a reader, without a line end behind it.
pub fn summary(plan: &Plan, tally: &Tally) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_summary(&mut text, plan, tally);
    text.truncate(text.trim_end().len());
    text
}

/// The run for a program: the plan, the counts, the latencies in milliseconds.
pub fn json(plan: &Plan, tally: &Tally) -> Value {
    let failures = tally.failures();
    let failures: Map<_, _> = failures
        .map(|(f, n)| (f.key().to_owned(), json!(n)))
        .collect();
    let statuses = tally.statuses();
    let statuses: Map<_, _> = statuses.map(|(s, n)| (s.to_string(), json!(n))).collect();
    let backends: Vec<Value> = tally
        .backends
        .sorted()
        .into_iter()
        .map(|(name, count)| {
            json!({"backend": name, "requests": count.requests, "failures": count.failures})
        })
        .collect();
    json!({
        "plan": plan_json(plan),
        "requests": tally.requests,
        "good": tally.good,
        "failed": tally.failed(),
        "failures": failures,
        "late": tally.late,
        "good_late": tally.good_late,
        "requests_per_s": per_second(plan, good_in_time(tally)),
        "received_bytes": tally.received_bytes,
        "connects": tally.connects,
        "latency_ms": latency_json(&tally.latency),
        "statuses": statuses,
        "backends": backends,
        "watch": plan.watch.zip(tally.watched.as_ref()).map(watch_json),
        "driver": {
            "version": env!("CARGO_PKG_VERSION"),
            "cpu_s": tally.cpu.as_secs_f64(),
            "cpu_us_per_request": cpu_us_per_request(tally),
            "busy": driver_busy(plan, tally),
        },
    })
}

/// Makes the directory that [`write_files`] will write into, and tries whether that is possible.
///
/// # Errors
/// Where it is not.
pub fn prepare(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let probe = directory.join(".loadgen");
    fs::write(&probe, [])?;
    fs::remove_file(probe)
}

/// Writes `latency.hgrm`, `result.json` and `server_stats.csv` into the directory.
///
/// # Errors
/// Where that is not possible.
pub fn write_files(directory: &Path, plan: &Plan, tally: &Tally) -> io::Result<()> {
    fs::write(directory.join("latency.hgrm"), percentiles(&tally.latency))?;
    let json = format!("{:#}\n", json(plan, tally));
    fs::write(directory.join("result.json"), json)?;
    fs::write(directory.join("server_stats.csv"), server_stats(tally))
}

fn write_summary(text: &mut String, plan: &Plan, tally: &Tally) -> std::fmt::Result {
    writeln!(text, "{}\n", headline(plan))?;
    let rate = per_second(plan, good_in_time(tally));
    let megabytes = per_second(plan, tally.received_bytes - tally.received_bytes_late) / 1e6;
    writeln!(text, "requests   {:>12}", tally.requests)?;
    writeln!(text, "good       {:>12}   {rate:.1} a second", tally.good)?;
    writeln!(text, "failed     {:>12}", tally.failed())?;
    for (failure, count) in tally.failures() {
        let (key, advice) = (failure.key(), failure.advice());
        writeln!(text, "  {key:<22} {count:>10}   {advice}")?;
        if failure == Failure::Status {
            let statuses = tally.statuses();
            let statuses = statuses.map(|(status, count)| format!("{count} of {status}"));
            let statuses: Vec<String> = statuses.collect();
            writeln!(text, "    all answers: {}", statuses.join(", "))?;
        }
    }
    write_unreached(text, plan, tally)?;
    write_late(text, plan, tally)?;
    writeln!(text, "received   {megabytes:>12.3} MB a second\n")?;
    write_latency(text, plan, &tally.latency)?;
    write_backends(text, tally)?;
    write_driver(text, plan, tally)
}

/// Which of several targets could not be connected to.
fn write_unreached(text: &mut String, plan: &Plan, tally: &Tally) -> std::fmt::Result {
    if plan.targets.len() == 1 || tally.unreached.is_empty() {
        return Ok(());
    }
    let urls = tally
        .unreached
        .iter()
        .map(|&number| url(&plan.targets[number]));
    let urls: Vec<String> = urls.collect();
    writeln!(text, "  connects failed to: {}", urls.join(" "))
}

/// Whether the target kept up with the rate, where it did not.
fn write_late(text: &mut String, plan: &Plan, tally: &Tally) -> std::fmt::Result {
    let Pace::Open { rate } = plan.pace else {
        return Ok(());
    };
    if tally.late == 0 || (tally.late as f64) < tally.requests as f64 * LATE_SHARE {
        return Ok(());
    }
    let in_time = per_second(plan, tally.requests - tally.late);
    writeln!(
        text,
        "late       {:>12}   sent after the end or never: {in_time:.0} of {rate} a second were had",
        tally.late
    )
}

/// What was done, in one line.
fn headline(plan: &Plan) -> String {
    let urls: Vec<String> = plan.targets.iter().map(url).collect();
    let pace = match plan.pace {
        Pace::Closed => "closed loop".to_owned(),
        Pace::Open { rate } => format!("open loop, {rate} a second"),
    };
    let reuse = match plan.reuse {
        Reuse::Kept { depth: 1 } => "kept".to_owned(),
        Reuse::Kept { depth } => format!("kept, {depth} requests under way on each"),
        Reuse::PerRequest => "one for each request".to_owned(),
    };
    let (connections, duration, warm_up) = (plan.connections, plan.duration, plan.warm_up);
    let plural = if connections == 1 { "" } else { "s" };
    format!(
        "{}: {connections} connection{plural} ({reuse}), {pace}, {duration:?} after {warm_up:?}",
        urls.join(" ")
    )
}

fn url(target: &Target) -> String {
    format!("http://{}{}", target.host, target.path)
}

fn write_latency(text: &mut String, plan: &Plan, latency: &Histogram<u64>) -> std::fmt::Result {
    let since = match (plan.pace, plan.reuse) {
        (Pace::Open { .. }, _) => "from the intended moment of sending",
        (_, Reuse::PerRequest) => "from the beginning of the connect",
        _ => "from the sending",
    };
    writeln!(text, "latency    {:>12}   {since}", "ms")?;
    if latency.is_empty() {
        return writeln!(text, "  nothing was answered\n");
    }
    for (percentile, name) in PERCENTILES {
        let value = latency.value_at_percentile(percentile) as f64 * MS_PER_NS;
        writeln!(text, "  {name:<8} {value:>12.3}")?;
    }
    let mean = latency.mean() * MS_PER_NS;
    let deviation = latency.stdev() * MS_PER_NS;
    let max = latency.max() as f64 * MS_PER_NS;
    writeln!(text, "  {:<8} {max:>12.3}", "max")?;
    writeln!(
        text,
        "  {:<8} {mean:>12.3}   deviation {deviation:.3}\n",
        "mean"
    )
}

fn write_backends(text: &mut String, tally: &Tally) -> std::fmt::Result {
    let rows = tally.backends.sorted();
    let width = rows.iter().map(|(name, _)| name.chars().count()).max();
    let width = width.unwrap_or(0).max(8);
    writeln!(
        text,
        "{:<width$} {:>14} {:>8} {:>10}",
        "backend", "requests", "share", "failures"
    )?;
    for (name, count) in rows {
        let share = 100.0 * ratio(count.requests, tally.requests);
        let (requests, failures) = (count.requests, count.failures);
        writeln!(
            text,
            "{name:<width$} {requests:>14} {share:>6.2} % {failures:>10}"
        )?;
    }
    writeln!(text)
}

fn write_driver(text: &mut String, plan: &Plan, tally: &Tally) -> std::fmt::Result {
    let busy = driver_busy(plan, tally);
    let percent = 100.0 * busy;
    write!(text, "driver: {percent:.0} % of its time on a CPU")?;
    if let Some(each) = cpu_us_per_request(tally) {
        write!(text, ", {each:.2} us per request")?;
    }
    writeln!(text)?;
    if busy >= DRIVER_BOUND {
        let bound = "driver-bound: the target can do more than this; more --threads on other cores";
        writeln!(text, "{bound}")?;
    }
    Ok(())
}

fn plan_json(plan: &Plan) -> Value {
    let target = |target: &Target| {
        let Target {
            address,
            host,
            path,
        } = target;
        json!({"address": address.to_string(), "host": host, "path": path})
    };
    let rate = match plan.pace {
        Pace::Closed => Value::Null,
        Pace::Open { rate } => json!(rate),
    };
    json!({
        "targets": plan.targets.iter().map(target).collect::<Vec<_>>(),
        "connections": plan.connections,
        "threads": plan.threads,
        "rate_per_s": rate,
        "keep_alive": plan.reuse != Reuse::PerRequest,
        "pipeline": plan.reuse.depth(),
        "method": plan.request.method,
        "fields": plan.request.fields,
        "body_bytes": plan.request.body_bytes,
        "warm_up_s": plan.warm_up.as_secs_f64(),
        "duration_s": plan.duration.as_secs_f64(),
        "timeout_s": plan.timeout.as_secs_f64(),
    })
}

fn watch_json((pid, watched): (i32, &Watched)) -> Value {
    let core = |core: &Core| {
        let Core {
            number,
            idle_s,
            stolen_s,
        } = core;
        json!({"core": number, "idle_s": idle_s, "stolen_s": stolen_s})
    };
    json!({
        "pid": pid,
        "wall_s": watched.wall.as_secs_f64(),
        "cpu_s": watched.cpu.as_secs_f64(),
        "cores": watched.cores.iter().map(core).collect::<Vec<_>>(),
    })
}

fn latency_json(latency: &Histogram<u64>) -> Value {
    let ms = |ns: f64| json!(ns * MS_PER_NS);
    let mut object: Map<String, Value> = PERCENTILES
        .iter()
        .map(|(percentile, name)| {
            let value = latency.value_at_percentile(*percentile) as f64;
            ((*name).to_owned(), ms(value))
        })
        .collect();
    object.insert("min".to_owned(), ms(latency.min() as f64));
    object.insert("max".to_owned(), ms(latency.max() as f64));
    object.insert("mean".to_owned(), ms(latency.mean()));
    object.insert("deviation".to_owned(), ms(latency.stdev()));
    Value::Object(object)
}

/// The percentile distribution in the format of HdrHistogram, in milliseconds, which its plotters
/// read.
fn percentiles(latency: &Histogram<u64>) -> String {
    let mut text = String::new();
    let _ = write_percentiles(&mut text, latency);
    text
}

fn write_percentiles(text: &mut String, latency: &Histogram<u64>) -> std::fmt::Result {
    let title = ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"];
    let [value, percentile, count, inverse] = title;
    writeln!(
        text,
        "{value:>12} {percentile:>14} {count:>10} {inverse:>14}\n"
    )?;
    let mut total = 0;
    for step in latency.iter_quantiles(STEPS_PER_HALF) {
        total += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 * MS_PER_NS;
        let quantile = step.quantile_iterated_to();
        write!(text, "{value:>12.6} {quantile:>14.12} {total:>10}")?;
        if quantile < 1.0 {
            write!(text, " {:>14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(text)?;
    }
    let (mean, deviation) = (latency.mean() * MS_PER_NS, latency.stdev() * MS_PER_NS);
    let (max, count) = (latency.max() as f64 * MS_PER_NS, latency.len());
    writeln!(
        text,
        "#[Mean    = {mean:>12.6}, StdDeviation   = {deviation:>12.6}]"
    )?;
    writeln!(
        text,
        "#[Max     = {max:>12.6}, Total count    = {count:>12}]"
    )?;
    let (buckets, halves) = (latency.buckets(), 2 << significant_bits(latency));
    writeln!(
        text,
        "#[Buckets = {buckets:>12}, SubBuckets     = {halves:>12}]"
    )
}

/// Bits that a bucket tells apart, less one: values are kept to so many decimal digits.
fn significant_bits(latency: &Histogram<u64>) -> u32 {
    let distinct = 10u64.pow(u32::from(latency.sigfig()));
    distinct.next_power_of_two().ilog2()
}

/// One line for each backend: its name, its requests, its share of all, its failures.
fn server_stats(tally: &Tally) -> String {
    let mut text = String::from("backend,requests,share,failures\n");
    for (name, count) in tally.backends.sorted() {
        let share = ratio(count.requests, tally.requests);
        let (requests, failures) = (count.requests, count.failures);
        let _ = writeln!(
            text,
            "{},{requests},{share:.6},{failures}",
            csv_field(&name)
        );
    }
    text
}

/// A field of RFC 4180, in quotes where it needs them.
fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn per_second(plan: &Plan, count: u64) -> f64 {
    count as f64 / plan.duration.as_secs_f64()
}

/// Good responses to requests that were sent within the measurement: a queue that is answered
/// behind its end is no rate.
fn good_in_time(tally: &Tally) -> u64 {
    tally.good - tally.good_late
}

fn cpu_us_per_request(tally: &Tally) -> Option<f64> {
    let in_time = tally.requests - tally.late;
    (in_time > 0).then(|| tally.cpu.as_secs_f64() * 1e6 / in_time as f64)
}

/// The share of the measurement that the driving threads were on a CPU.
fn driver_busy(plan: &Plan, tally: &Tally) -> f64 {
    tally.cpu.as_secs_f64() / plan.duration.as_secs_f64() / plan.threads as f64
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::{percentiles, server_stats, summary};
    use crate::loadgen::failure::Failure;
    use crate::loadgen::response::Finished;
    use crate::loadgen::tally::Tally;
    use crate::loadgen::testing::plan;

    /// 1 to 100 ms once each, from two backends in turn, and one refused connect.
    fn tally() -> Tally {
        let mut tally = Tally::new();
        let names: [&[u8]; 2] = [b"one", b"two, \"2\""];
        for ms in 1..=100u64 {
            let response = Finished {
                status: 200,
                backend: tally.backends.number(names[(ms % 2) as usize]),
                ..Finished::default()
            };
            tally.answered(ms * 1_000_000, false, &response, None);
        }
        tally.lost(1, false, Failure::ConnectRefused, 0);
        tally
    }

    #[test]
    fn the_summary_has_percentiles_failures_and_shares() {
        let text = summary(&plan(), &tally());
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let has = |words: &[&str]| lines.iter().any(|line| line.starts_with(words));
        assert!(has(&["good", "100", "100.0"]), "{text}");
        assert!(has(&["connect_refused", "1", "nobody"]), "{text}");
        assert!(has(&["p50", "50.004"]), "{text}");
        assert!(has(&["p99.99", "100.008"]), "{text}");
        assert!(has(&["one", "50", "49.50", "%", "0"]), "{text}");
        assert!(!text.contains("driver-bound"), "{text}");
    }

    #[test]
    fn the_percentile_file_is_what_plotters_read() {
        let text = percentiles(&tally().latency);
        let mut lines = text.lines();
        let title = lines.next().unwrap().split_whitespace();
        let expected = ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"];
        assert!(title.eq(expected));
        assert_eq!(lines.next(), Some(""));
        let rows: Vec<Vec<f64>> = lines
            .clone()
            .take_while(|line| !line.starts_with('#'))
            .map(|line| {
                line.split_whitespace()
                    .map(|n| n.parse().unwrap())
                    .collect()
            })
            .collect();
        assert!(rows.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1] && a[2] <= b[2]));
        let (last, before) = rows.split_last().unwrap();
        assert_eq!((last.len(), last[1], last[2]), (3, 1.0, 100.0));
        assert!((last[0] - 100.0).abs() < 0.1, "{last:?}");
        for row in before {
            assert!((row[3] - 1.0 / (1.0 - row[1])).abs() < 0.01, "{row:?}");
        }
        let tail: Vec<&str> = lines.skip_while(|line| !line.starts_with('#')).collect();
        assert!(tail[0].starts_with("#[Mean    =") && tail[0].ends_with(']'));
        assert!(tail[1].ends_with("Total count    =          100]"));
        assert!(tail[2].ends_with("SubBuckets     =         2048]"));
    }

    #[test]
    fn the_distribution_is_csv() {
        let expected = "backend,requests,share,failures\n\
            -,1,0.009901,1\n\
            one,50,0.495050,0\n\
            \"two, \"\"2\"\"\",50,0.495050,0\n";
        assert_eq!(server_stats(&tally()), expected);
    }
}
