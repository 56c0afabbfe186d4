//! Reads a payload line by line. Every error names its line.

use thiserror::Error;

use super::fields::{Invalid, decimal, parse_size};

/// A message that cannot be parsed: the line of the payload, from 1, and what is expected there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("line {line}: {what}")]
pub struct Fault {
    pub line: usize,
    pub what: &'static str,
}

/// The lines of a payload. A line break at its end is optional.
#[derive(Debug, Clone)]
pub(super) struct Lines<'a> {
    rest: Option<&'a str>,
    /// Of the last line that was read, from 1.
    number: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn of(payload: &'a str) -> Lines<'a> {
        let text = payload.strip_suffix('\n').unwrap_or(payload);
        Lines {
            rest: (!text.is_empty()).then_some(text),
            number: 0,
        }
    }

    fn take(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        self.number += 1;
        let (line, rest) = match rest.split_once('\n') {
            Some((line, rest)) => (line, Some(rest)),
            None => (rest, None),
        };
        self.rest = rest;
        Some(line)
    }

    pub(super) fn fault(&self, Invalid(what): Invalid) -> Fault {
        Fault {
            line: self.number,
            what,
        }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_none()
    }

    pub(super) fn next(&mut self, missing: &'static str) -> Result<&'a str, Fault> {
        self.take().ok_or(Fault {
            line: self.number + 1,
            what: missing,
        })
    }

    pub(super) fn value<T: std::str::FromStr<Err = Invalid>>(
        &mut self,
        missing: &'static str,
    ) -> Result<T, Fault> {
        let line = self.next(missing)?;
        line.parse().map_err(|e| self.fault(e))
    }

    pub(super) fn number(&mut self, missing: &'static str) -> Result<u64, Fault> {
        let line = self.next(missing)?;
        decimal(line).ok_or_else(|| self.fault(Invalid("not a decimal number")))
    }

    pub(super) fn size(&mut self) -> Result<u64, Fault> {
        let line = self.next("the size")?;
        parse_size(line).map_err(|e| self.fault(e))
    }

    pub(super) fn checked(
        &mut self,
        missing: &'static str,
        check: impl FnOnce(&str) -> Result<(), Invalid>,
    ) -> Result<&'a str, Fault> {
        let line = self.next(missing)?;
        check(line).map_err(|e| self.fault(e))?;
        Ok(line)
    }

    pub(super) fn parsed<T>(
        &mut self,
        what: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Fault> {
        let line = self.next(what)?;
        parse(line).ok_or_else(|| self.fault(Invalid(what)))
    }

    /// An optional field: absent, or empty when others follow.
    pub(super) fn option<T>(
        &mut self,
        what: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        match self.take() {
            None | Some("") => Ok(None),
            Some(line) => parse(line)
                .map(Some)
                .ok_or_else(|| self.fault(Invalid(what))),
        }
    }

    pub(super) fn offset(&mut self) -> Result<u64, Fault> {
        let offset = self.option("the offset is not a decimal number", decimal)?;
        Ok(offset.unwrap_or(0))
    }

    /// Parses all remaining lines.
    pub(super) fn rest_by<T>(
        &mut self,
        parse: impl Fn(&'a str) -> Result<T, Invalid>,
    ) -> Result<Vec<T>, Fault> {
        let mut values = Vec::new();
        while let Some(line) = self.take() {
            values.push(parse(line).map_err(|e| self.fault(e))?);
        }
        Ok(values)
    }

    pub(super) fn end(&mut self) -> Result<(), Fault> {
        match self.take() {
            None => Ok(()),
            Some(_) => Err(self.fault(Invalid("more lines than the message has"))),
        }
    }
}
