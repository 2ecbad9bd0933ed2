//! What the demo shows, as text: values in, lines out. Where they go is `screen`'s, where the
//! values come from `meter`'s.

use std::time::Duration;

/// What stands above the table.
#[derive(Clone, Debug)]
pub(super) struct Heading {
    /// What to ask of the balancer with curl.
    pub(super) url: String,
    /// Which engine moves the bytes.
    pub(super) engine: &'static str,
    /// Requests per second that the demo sends to itself.
    pub(super) rate: u32,
}

/// One backend at one moment.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// What the worker calls itself.
    pub(super) name: String,
    /// Where it listens.
    pub(super) address: String,
    /// What became of its process.
    pub(super) process: String,
    /// Whether the balancer picks it.
    pub(super) health: String,
    /// Its counters.
    pub(super) counters: Counters,
    /// Requests per second, of late.
    pub(super) rate: f64,
}

/// What a backend has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Requests that it was picked for.
    pub(super) requests: u64,
    /// Those of them that failed.
    pub(super) failures: u64,
    /// Those that were answered; the others are under way, or were lost.
    pub(super) answered: u64,
    /// Microseconds that these took in all.
    pub(super) latency_us: u64,
}

/// The picture for a terminal of `width` columns and `height` lines, the heading included. No line
/// is wider; of the backends only so many are shown as leave the last line of the terminal free.
pub(super) fn picture(
    heading: &Heading,
    uptime: Duration,
    rows: &[Row],
    width: usize,
    height: usize,
) -> Vec<String> {
    let mut lines = vec![
        format!(
            "fastlb demo, engine {}, up {}",
            heading.engine,
            span(uptime)
        ),
        format!("curl {}", heading.url),
        format!("{} requests/s to itself; Ctrl-C stops", heading.rate),
        String::new(),
    ];
    let mut table = table(rows, width);
    let room = height.saturating_sub(lines.len() + 1);
    // The first line names the columns and the last has the sums; what gives way is between.
    if table.len() > room && room >= 2 {
        table.drain(room - 1..table.len() - 1);
    }
    lines.extend(table);
    lines.truncate(height.saturating_sub(1));
    lines.iter_mut().for_each(|line| line.truncate(width));
    lines
}

/// The columns' names, one line for each row, and their sums. Where `width` is too small for all
/// columns the less telling ones are left out, but the name and the requests stay.
pub(super) fn table(rows: &[Row], width: usize) -> Vec<String> {
    let sum = sum(rows);
    let mut columns: Vec<(&Column, Vec<String>)> = COLUMNS
        .iter()
        .map(|column| {
            let cells = rows
                .iter()
                .chain([&sum])
                .map(|row| (column.cell)(row, &sum.counters));
            (
                column,
                [column.title.to_owned()].into_iter().chain(cells).collect(),
            )
        })
        .collect();
    while line_width(&columns) > width && columns.len() > 2 {
        columns.retain({
            let least = columns.iter().map(|(column, _)| column.rank).max();
            move |(column, _)| Some(column.rank) != least
        });
    }
    (0..rows.len() + 2)
        .map(|line| text_of(&columns, line))
        .collect()
}

/// One line per backend that can be read without a heading, for output that is no terminal.
pub(super) fn plain(uptime: Duration, rows: &[Row]) -> Vec<String> {
    let all = sum(rows).counters;
    let line = |row: &Row| {
        format!(
            "{} {} {}: {}, {}, requests {}, share {}, failures {}, latency {}, now {}",
            span(uptime),
            row.name,
            row.address,
            row.process,
            row.health,
            row.counters.requests,
            share(&row.counters, &all),
            row.counters.failures,
            latency(&row.counters),
            rate(row.rate),
        )
    };
    rows.iter().map(line).collect()
}

struct Column {
    title: &'static str,
    /// Text is read from its beginning, numbers are compared from their end.
    align: Align,
    /// The higher, the earlier it is left out.
    rank: u8,
    cell: fn(&Row, &Counters) -> String,
}

#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}

const COLUMNS: [Column; 9] = [
    Column {
        title: "BACKEND",
        align: Align::Left,
        rank: 0,
        cell: |row, _| row.name.clone(),
    },
    Column {
        title: "ADDRESS",
        align: Align::Left,
        rank: 7,
        cell: |row, _| row.address.clone(),
    },
    Column {
        title: "PROCESS",
        align: Align::Left,
        rank: 3,
        cell: |row, _| row.process.clone(),
    },
    Column {
        title: "HEALTH",
        align: Align::Left,
        rank: 4,
        cell: |row, _| row.health.clone(),
    },
    Column {
        title: "REQUESTS",
        align: Align::Right,
        rank: 1,
        cell: |row, _| row.counters.requests.to_string(),
    },
    Column {
        title: "SHARE",
        align: Align::Right,
        rank: 8,
        cell: |row, all| share(&row.counters, all),
    },
    Column {
        title: "FAILURES",
        align: Align::Right,
        rank: 2,
        cell: |row, _| row.counters.failures.to_string(),
    },
    Column {
        title: "LATENCY",
        align: Align::Right,
        rank: 5,
        cell: |row, _| latency(&row.counters),
    },
    Column {
        title: "NOW",
        align: Align::Right,
        rank: 6,
        cell: |row, _| rate(row.rate),
    },
];

/// Spaces between two columns.
const GAP: usize = 2;

fn line_width(columns: &[(&Column, Vec<String>)]) -> usize {
    let cells: usize = columns.iter().map(|(_, cells)| width_of(cells)).sum();
    cells + GAP * columns.len().saturating_sub(1)
}

fn width_of(cells: &[String]) -> usize {
    cells.iter().map(String::len).max().unwrap_or(0)
}

fn text_of(columns: &[(&Column, Vec<String>)], line: usize) -> String {
    let mut text = String::new();
    for (column, cells) in columns {
        let (cell, width) = (&cells[line], width_of(cells));
        text += &match column.align {
            Align::Left => format!("{cell:<width$}"),
            Align::Right => format!("{cell:>width$}"),
        };
        text += &" ".repeat(GAP);
    }
    text.truncate(text.trim_end().len());
    text
}

fn sum(rows: &[Row]) -> Row {
    let total = |field: fn(&Counters) -> u64| rows.iter().map(|row| field(&row.counters)).sum();
    Row {
        name: "all".to_owned(),
        address: String::new(),
        process: String::new(),
        health: String::new(),
        counters: Counters {
            requests: total(|counters| counters.requests),
            failures: total(|counters| counters.failures),
            answered: total(|counters| counters.answered),
            latency_us: total(|counters| counters.latency_us),
        },
        rate: rows.iter().map(|row| row.rate).sum(),
    }
}

/// What a value is shown as where there is none.
const NONE: &str = "-";

fn share(counters: &Counters, all: &Counters) -> String {
    if all.requests == 0 {
        return NONE.to_owned();
    }
    format!(
        "{:.1}%",
        counters.requests as f64 * 100.0 / all.requests as f64
    )
}

/// The average over all requests that were answered: one that hangs is not fast.
fn latency(counters: &Counters) -> String {
    let Some(average_us) = counters.latency_us.checked_div(counters.answered) else {
        return NONE.to_owned();
    };
    match average_us {
        0..1_000 => format!("{average_us} us"),
        1_000..1_000_000 => format!("{:.1} ms", average_us as f64 / 1e3),
        _ => format!("{:.2} s", average_us as f64 / 1e6),
    }
}

fn rate(per_second: f64) -> String {
    format!("{per_second:.0}/s")
}

fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Counters, Heading, Row, latency, picture, plain, span, table};

    fn rows() -> Vec<Row> {
        let row = |number: u16, states: [&str; 2], requests, failures, latency_us, rate| Row {
            name: format!("worker-{number}"),
            address: format!("127.0.0.1:4000{number}"),
            process: states[0].to_owned(),
            health: states[1].to_owned(),
            counters: Counters {
                requests,
                failures,
                answered: requests,
                latency_us,
            },
            rate,
        };
        vec![
            row(1, ["running", "up"], 1200, 12, 24_480_000, 7.0),
            row(2, ["running", "ejected"], 600, 0, 480_000, 6.6),
            row(3, ["killed (9)", "down"], 0, 0, 0, 0.0),
        ]
    }

    fn heading() -> Heading {
        Heading {
            url: "http://127.0.0.1:3030/api/v1/hello".to_owned(),
            engine: "epoll",
            rate: 20,
        }
    }

    #[test]
    fn columns_are_aligned_and_summed() {
        let expected = "\
BACKEND   ADDRESS          PROCESS     HEALTH   REQUESTS   SHARE  FAILURES  LATENCY   NOW
worker-1  127.0.0.1:40001  running     up           1200   66.7%        12  20.4 ms   7/s
worker-2  127.0.0.1:40002  running     ejected       600   33.3%         0   800 us   7/s
worker-3  127.0.0.1:40003  killed (9)  down            0    0.0%         0        -   0/s
all                                                 1800  100.0%        12  13.9 ms  14/s";
        assert_eq!(table(&rows(), 100).join("\n"), expected);
    }

    #[test]
    fn a_narrow_table_leaves_out_the_less_telling_columns() {
        let titles = |width| table(&rows(), width)[0].split_whitespace().count();
        assert_eq!([89, 88, 81, 80].map(titles), [9, 8, 8, 7]);
        assert!(!table(&rows(), 80)[0].contains("SHARE"));
        assert_eq!(table(&rows(), 20)[0], "BACKEND   REQUESTS");
        assert_eq!(table(&rows(), 0)[0], "BACKEND   REQUESTS");
    }

    #[test]
    fn nothing_is_wider_or_higher_than_the_terminal() {
        for width in 0..120 {
            for height in 1..20 {
                let lines = picture(&heading(), Duration::ZERO, &rows(), width, height);
                assert!(
                    lines.iter().all(|line| line.len() <= width),
                    "{width} {lines:?}"
                );
                assert!(lines.len() < height, "{height} {lines:?}");
            }
        }
    }

    #[test]
    fn a_low_terminal_keeps_the_names_of_the_columns_and_the_sums() {
        let lines = picture(&heading(), Duration::ZERO, &rows(), 80, 8);
        assert!(lines[4].starts_with("BACKEND") && lines[5].starts_with("worker-1"));
        assert!(lines[6].starts_with("all") && lines.len() == 7);
    }

    #[test]
    fn the_heading_names_what_to_ask_the_engine_and_the_time() {
        let lines = picture(&heading(), Duration::from_secs(75), &rows(), 80, 24);
        assert_eq!(lines[0], "fastlb demo, engine epoll, up 1m15s");
        assert_eq!(lines[1], "curl http://127.0.0.1:3030/api/v1/hello");
    }

    #[test]
    fn a_plain_line_stands_for_itself() {
        let lines = plain(Duration::from_secs(4), &rows());
        assert_eq!(
            lines[0],
            "4s worker-1 127.0.0.1:40001: running, up, requests 1200, share 66.7%, failures 12, \
             latency 20.4 ms, now 7/s"
        );
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn no_request_is_no_latency_and_no_share() {
        let mut rows = rows();
        rows.iter_mut()
            .for_each(|row| row.counters = Counters::default());
        assert!(plain(Duration::ZERO, &rows)[0].contains("share -, failures 0, latency -,"));
    }

    #[test]
    fn latencies_and_spans_have_the_unit_that_fits() {
        let of = |latency_us| {
            latency(&Counters {
                requests: 2,
                failures: 0,
                answered: 1,
                latency_us,
            })
        };
        assert_eq!([of(0), of(999), of(1_000)], ["0 us", "999 us", "1.0 ms"]);
        assert_eq!([of(999_000), of(1_000_000)], ["999.0 ms", "1.00 s"]);
        let of = |seconds| span(Duration::from_secs(seconds));
        assert_eq!([of(0), of(59), of(60)], ["0s", "59s", "1m00s"]);
        assert_eq!(
            [of(3599), of(3600), of(90_061)],
            ["59m59s", "1h00m", "25h01m"]
        );
    }
}
