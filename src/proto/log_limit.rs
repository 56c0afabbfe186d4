//! A limit on log lines that peers can cause.
//!
//! For: one value for each kind of line. Not for: lines that the operator or our own pace causes.

use crate::engine::{Tick, Ticks};

/// At most one line of a kind in this time: a flood can be seen, and does not fill a disk.
const LINE_EVERY: Ticks = Ticks::from_secs(1);

/// The limit of one kind of line.
#[derive(Debug, Default)]
pub struct LogLimit {
    not_before: Tick,
    dropped: u64,
}

impl LogLimit {
    /// Logs a line as a warning, or counts it as dropped; the number is told with the next line.
    pub fn warn(&mut self, now: Tick, line: std::fmt::Arguments<'_>) {
        self.log(now, log::Level::Warn, line);
    }

    /// The same at level info.
    pub fn info(&mut self, now: Tick, line: std::fmt::Arguments<'_>) {
        self.log(now, log::Level::Info, line);
    }

    fn log(&mut self, now: Tick, level: log::Level, line: std::fmt::Arguments<'_>) {
        match self.admit(now) {
            Some(0) => log::log!(level, "{line}"),
            Some(dropped) => log::log!(level, "{line} (and {dropped} more like it)"),
            None => {}
        }
    }

    /// How many lines were dropped since the last one, if there may be one now.
    fn admit(&mut self, now: Tick) -> Option<u64> {
        if now < self.not_before {
            self.dropped += 1;
            return None;
        }
        self.not_before = now + LINE_EVERY;
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_and_the_number_of_the_others() {
        let mut limit = LogLimit::default();
        let admitted: Vec<_> = (0..250).filter_map(|t| limit.admit(Tick(t))).collect();
        assert_eq!(admitted, [0, 99, 99]);
    }
}
