//! Where the demo's picture goes: redrawn in place on a terminal, line after line elsewhere.

use std::io::{self, IsTerminal, Stdout, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::table::{Heading, Row, picture, plain, table};

/// Width of a table that nobody looks at, and of a terminal that does not tell.
const WIDTH: usize = 80;
/// Height of a terminal that does not tell.
const HEIGHT: usize = 24;
/// Every so many readings become lines where they are not redrawn in place.
const PLAIN_EVERY: u64 = 2;

const CURSOR_HIDE: &str = "\x1b[?25l";
const CURSOR_SHOW: &str = "\x1b[?25h";
const WRAP_OFF: &str = "\x1b[?7l";
const WRAP_ON: &str = "\x1b[?7h";
const ERASE_BELOW: &str = "\r\x1b[J";

/// Standard output, as what it is.
pub(super) enum Screen {
    /// A terminal.
    Terminal(Terminal),
    /// A file or a pipe; how many readings it was shown.
    Lines(u64),
}

/// A terminal that shows the picture. The cursor rests on the line above the picture, so that a
/// line of the log pushes the picture down instead of being painted over.
pub(super) struct Terminal {
    output: Stdout,
    resized: Signal,
    width: usize,
    height: usize,
}

impl Screen {
    /// Takes standard output; a terminal's cursor is hidden until the value is closed or dropped.
    ///
    /// # Errors
    /// Where the signal that tells of another size cannot be listened to.
    pub(super) fn open() -> io::Result<Self> {
        let output = io::stdout();
        if !output.is_terminal() {
            return Ok(Self::Lines(0));
        }
        let (width, height) = size(&output);
        let resized = signal(SignalKind::window_change())?;
        Ok(Self::Terminal(Terminal {
            output,
            resized,
            width,
            height,
        }))
    }

    /// Says, once, what there is to see.
    ///
    /// # Errors
    /// Where standard output is gone.
    pub(super) fn begin(&mut self, heading: &Heading) -> io::Result<()> {
        match self {
            Self::Terminal(terminal) => terminal.write(&[CURSOR_HIDE, WRAP_OFF]),
            Self::Lines(_) => {
                writeln!(
                    io::stdout(),
                    "engine {}, curl {}",
                    heading.engine,
                    heading.url
                )
            }
        }
    }

    /// Shows the readings of this second.
    ///
    /// # Errors
    /// Where standard output is gone.
    pub(super) fn show(
        &mut self,
        heading: &Heading,
        uptime: Duration,
        rows: &[Row],
    ) -> io::Result<()> {
        match self {
            Self::Terminal(terminal) => {
                let lines = picture(heading, uptime, rows, terminal.width, terminal.height);
                terminal.draw(&lines)
            }
            Self::Lines(shown) => {
                *shown += 1;
                if !(*shown - 1).is_multiple_of(PLAIN_EVERY) {
                    return Ok(());
                }
                print(&plain(uptime, rows))
            }
        }
    }

    /// Waits until the terminal has another size, and takes it over.
    pub(super) async fn resized(&mut self) {
        match self {
            Self::Terminal(terminal) => {
                terminal.resized.recv().await;
                (terminal.width, terminal.height) = size(&terminal.output);
            }
            Self::Lines(_) => std::future::pending().await,
        }
    }

    /// Leaves the last readings on the screen, as a table that stays.
    ///
    /// # Errors
    /// Where standard output is gone.
    pub(super) fn close(self, rows: &[Row]) -> io::Result<()> {
        let width = match &self {
            Self::Terminal(terminal) => terminal.width,
            Self::Lines(_) => WIDTH,
        };
        drop(self);
        print(&table(rows, width))
    }
}

impl Terminal {
    fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let picture = format!("{ERASE_BELOW}\n{}\x1b[{}A\r", lines.join("\n"), lines.len());
        self.write(&[&picture])
    }

    fn write(&mut self, texts: &[&str]) -> io::Result<()> {
        self.output.write_all(texts.concat().as_bytes())?;
        self.output.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no cursor.
        let _ = self.write(&[ERASE_BELOW, WRAP_ON, CURSOR_SHOW]);
    }
}

fn print(lines: &[String]) -> io::Result<()> {
    let mut output = io::stdout();
    output.write_all((lines.join("\n") + "\n").as_bytes())?;
    output.flush()
}

/// Columns and lines of the terminal. stty(1) is asked, because the system call behind it would be
/// unsafe code, and that has another home. Lines that are too long for a wrong answer are cut by
/// the terminal itself, which is told not to wrap.
fn size(terminal: &Stdout) -> (usize, usize) {
    let asked = || {
        let input = terminal.as_fd().try_clone_to_owned().ok()?;
        let output = Command::new("stty")
            .arg("size")
            .stdin(input)
            .stderr(Stdio::null())
            .output();
        parse_size(&String::from_utf8(output.ok()?.stdout).ok()?)
    };
    asked().unwrap_or((WIDTH, HEIGHT))
}

/// Reads "LINES COLUMNS"; a serial line that does not know its size says zero.
fn parse_size(text: &str) -> Option<(usize, usize)> {
    let (height, width) = text.trim().split_once(' ')?;
    let (width, height) = (width.parse().ok()?, height.parse().ok()?);
    (width > 0 && height > 0).then_some((width, height))
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn the_size_of_a_terminal_is_read_lines_first() {
        assert_eq!(parse_size("24 80\n"), Some((80, 24)));
        for bad in ["", "\n", "0 0\n", "24\n", "a b\n", "24 80 1\n"] {
            assert_eq!(parse_size(bad), None, "{bad:?}");
        }
    }
}
