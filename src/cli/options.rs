//! Values of options: what is out of range is refused in words, before anything is computed from it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::builder::TypedValueParser;

/// A century: as good as for ever, and far from what overflows.
pub(super) const LONG_SECS: u64 = 100 * 365 * 24 * 3600;

/// A number in a range. What is none (NaN of floats included) or lies outside is refused with the range.
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

/// Has every option take `-1` as its value, to refuse it, where clap would take it for an option that does not exist.
pub(super) fn negative_values(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let has_value = arg.get_action().takes_values();
            arg.allow_negative_numbers(has_value)
        })
        .mut_subcommands(negative_values)
}
