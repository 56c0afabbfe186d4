//! Parsers of option values. A value out of range is refused before anything is computed from it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::builder::TypedValueParser;

/// A century: no practical limit, and far below an overflow of ticks.
pub(super) const LONG_SECS: u64 = 100 * 365 * 24 * 3600;

/// A number in a range. Other text, NaN and numbers outside are refused with a message that names the range.
pub(super) fn within<T>(range: RangeInclusive<T>) -> impl TypedValueParser<Value = T>
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text: &str| match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!(
            "expected a number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// How long an answer is waited for.
pub(super) fn patience_secs() -> impl TypedValueParser<Value = u64> {
    within(1..=3600)
}

/// Lets every option take `-1` as its value: the parser of the option refuses it then, and names the option. By default
/// clap takes `-1` for an unknown option.
pub(super) fn negative_values(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let has_value = arg.get_action().takes_values();
            arg.allow_negative_numbers(has_value)
        })
        .mut_subcommands(negative_values)
}
