//! What a client may read of one key: the key is a register, and its history must be linearizable.
//!
//! ```text
//!   begin ──▶ events of a window ──▶ end of the last open operation ──▶ every order of the window is tried
//! ```
//! An operation takes effect at one moment between its begin and its end; one with an unknown outcome at any moment after
//! its begin, or never. A *configuration* is a value that the key may have, with the operations of the window that had
//! their effect on the way to it. At each end only those remain in which the operation is done ("just-in-time
//! linearization", Lowe 2017). A key with one client at a time has one configuration, so this costs next to nothing; eight
//! clients at once are still cheap, because windows are short.

use std::collections::BTreeSet;

use bytes::Bytes;

/// Operations in one window: as many as a mask has bits.
const WINDOW_MAX: usize = 64;

/// The state of a key.
pub(super) type Value = Option<Bytes>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Effect {
    Write(Value),
    Read(Value),
    /// There is an entry, or not.
    Presence(bool),
    /// A read that failed: no constraint.
    Nothing,
}

impl Effect {
    /// The value after it, if it may happen to this one.
    fn after(&self, value: &Value) -> Option<Value> {
        match self {
            Effect::Write(new) => return Some(new.clone()),
            Effect::Read(saw) if saw != value => return None,
            Effect::Presence(saw) if *saw != value.is_some() => return None,
            Effect::Read(_) | Effect::Presence(_) | Effect::Nothing => {}
        }
        Some(value.clone())
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Began(usize),
    Ended(usize),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Configuration {
    value: Value,
    done: u64,
}

/// An operation that no order explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) saw: Saw,
    /// What it could have been.
    pub(super) may: Vec<Value>,
}

/// What an operation found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Saw {
    Value(Value),
    Presence(bool),
}

impl Wrong {
    /// Every allowed value is "removed", and there was one.
    pub(super) fn is_back(&self) -> bool {
        let there = !matches!(self.saw, Saw::Value(None) | Saw::Presence(false));
        there && self.may.iter().all(Option::is_none)
    }
}

/// The history of one key.
#[derive(Debug)]
pub(super) struct Register {
    configurations: Vec<Configuration>,
    /// Of this window; those with an unknown outcome stay.
    effects: Vec<Effect>,
    events: Vec<Event>,
    /// Operations under way, without those whose outcome will never be known.
    open: usize,
    unknown: usize,
}

impl Default for Register {
    fn default() -> Register {
        let absent = Configuration {
            value: None,
            done: 0,
        };
        Register {
            configurations: vec![absent],
            effects: Vec::new(),
            events: Vec::new(),
            open: 0,
            unknown: 0,
        }
    }
}

impl Register {
    /// No further operation fits into the window: it has to end first.
    pub(super) fn is_full(&self) -> bool {
        self.effects.len() == WINDOW_MAX
    }

    /// Writes whose outcome will never be known.
    pub(super) fn unknown(&self) -> usize {
        self.unknown
    }

    /// The one value that the key can have now; `None` while that is open.
    pub(super) fn settled(&self) -> Option<&Value> {
        let [only] = &self.configurations[..] else {
            return None;
        };
        (self.open == 0 && self.effects.is_empty()).then_some(&only.value)
    }

    /// A write begins; its number in the window.
    pub(super) fn begin_write(&mut self, value: Value) -> usize {
        self.begin(Effect::Write(value))
    }

    pub(super) fn begin_read(&mut self) -> usize {
        self.begin(Effect::Nothing)
    }

    fn begin(&mut self, effect: Effect) -> usize {
        self.open += 1;
        self.effects.push(effect);
        self.events.push(Event::Began(self.effects.len() - 1));
        self.effects.len() - 1
    }

    /// An operation ended: with what it read, or as acknowledged.
    pub(super) fn end(&mut self, number: usize, saw: Option<Saw>) -> Result<(), Wrong> {
        match saw {
            Some(Saw::Value(value)) => self.effects[number] = Effect::Read(value),
            Some(Saw::Presence(there)) => self.effects[number] = Effect::Presence(there),
            None => {}
        }
        self.events.push(Event::Ended(number));
        self.over()
    }

    /// A write ended with an unknown outcome.
    pub(super) fn end_unknown(&mut self) -> Result<(), Wrong> {
        self.unknown += 1;
        self.over()
    }

    fn over(&mut self) -> Result<(), Wrong> {
        self.open -= 1;
        if self.open > 0 { Ok(()) } else { self.replay() }
    }

    /// The window is over: nothing is under way.
    fn replay(&mut self) -> Result<(), Wrong> {
        let mut open = (1_u64 << self.carried()) - 1;
        let mut wrong = Ok(());
        for event in std::mem::take(&mut self.events) {
            match event {
                Event::Began(number) => open |= 1 << number,
                Event::Ended(number) => {
                    if let Err(found) = self.linearize(number, open) {
                        wrong = Err(found);
                    }
                    open &= !(1 << number);
                }
            }
        }
        self.carry_over(open);
        wrong
    }

    /// Operations from earlier windows: they have no begin in this one.
    fn carried(&self) -> usize {
        let began = self.events.iter().find_map(|event| match event {
            Event::Began(number) => Some(*number),
            Event::Ended(_) => None,
        });
        began.unwrap_or(self.effects.len())
    }

    /// Keeps what the key can be if this operation has had its effect by now.
    fn linearize(&mut self, number: usize, open: u64) -> Result<(), Wrong> {
        let mut found = BTreeSet::new();
        let mut seen: BTreeSet<Configuration> = self.configurations.iter().cloned().collect();
        let mut next: Vec<Configuration> = std::mem::take(&mut self.configurations);
        while let Some(at) = next.pop() {
            if at.done & 1 << number != 0 {
                found.insert(at);
                continue;
            }
            for (i, effect) in self.effects.iter().enumerate() {
                let bit = 1 << i;
                if open & bit == 0 || at.done & bit != 0 {
                    continue;
                }
                let after = effect.after(&at.value).map(|value| Configuration {
                    value,
                    done: at.done | bit,
                });
                next.extend(after.filter(|after| seen.insert(after.clone())));
            }
        }
        if !found.is_empty() {
            self.configurations = found.into_iter().collect();
            return Ok(());
        }
        Err(self.contradiction(number, &seen))
    }

    /// The run goes on with what the operation saw.
    fn contradiction(&mut self, number: usize, seen: &BTreeSet<Configuration>) -> Wrong {
        let may: BTreeSet<Value> = seen.iter().map(|at| at.value.clone()).collect();
        let may: Vec<Value> = may.into_iter().collect();
        let done = seen.iter().fold(1 << number, |done, at| done | at.done);
        let (saw, values) = match &self.effects[number] {
            Effect::Read(value) => (Saw::Value(value.clone()), vec![value.clone()]),
            Effect::Presence(there) => (Saw::Presence(*there), may.clone()),
            Effect::Write(_) | Effect::Nothing => unreachable!("it can always be done"),
        };
        let goes_on = values
            .into_iter()
            .map(|value| Configuration { value, done });
        self.configurations = goes_on.collect();
        Wrong { saw, may }
    }

    /// Into the next window goes what is still open: outcomes that are unknown, and not certain by now.
    fn carry_over(&mut self, open: u64) {
        let is_certain = |i: usize| self.configurations.iter().all(|at| at.done & 1 << i != 0);
        let kept: Vec<usize> = (0..self.effects.len())
            .filter(|i| open & 1 << i != 0 && !is_certain(*i))
            .collect();
        let done = |at: &Configuration| {
            let bits = kept.iter().enumerate();
            bits.fold(0, |done, (to, from)| done | (at.done >> from & 1) << to)
        };
        let configurations = self.configurations.iter().map(|at| Configuration {
            value: at.value.clone(),
            done: done(at),
        });
        let configurations: BTreeSet<Configuration> = configurations.collect();
        self.configurations = configurations.into_iter().collect();
        self.effects = kept.iter().map(|i| self.effects[*i].clone()).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &'static str) -> Value {
        Some(Bytes::from_static(text.as_bytes()))
    }

    fn read(register: &mut Register, value: Value) -> Result<(), Wrong> {
        let number = register.begin_read();
        register.end(number, Some(Saw::Value(value)))
    }

    fn write(register: &mut Register, value: Value) {
        let number = register.begin_write(value);
        assert_eq!(register.end(number, None), Ok(()));
    }

    #[test]
    fn a_register_of_one_client_is_its_last_write() {
        let mut register = Register::default();
        assert_eq!(read(&mut register, None), Ok(()));
        write(&mut register, some("a"));
        write(&mut register, some("b"));
        assert_eq!(register.settled(), Some(&some("b")));
        let wrong = read(&mut register, some("a")).expect_err("an old value");
        assert_eq!(wrong.may, [some("b")]);
        write(&mut register, None);
        let wrong = read(&mut register, some("b")).expect_err("it was removed");
        assert!(wrong.is_back());
        let number = register.begin_read();
        assert_eq!(register.end(number, Some(Saw::Presence(true))), Ok(()));
    }

    #[test]
    fn writes_at_once_have_an_order_that_everybody_sees() {
        let mut register = Register::default();
        let (a, b) = (
            register.begin_write(some("a")),
            register.begin_write(some("b")),
        );
        let early = register.begin_read();
        for number in [a, b] {
            assert_eq!(register.end(number, None), Ok(()));
        }
        let late = register.begin_read();
        assert_eq!(register.end(early, Some(Saw::Value(some("a")))), Ok(()));
        assert_eq!(register.end(late, Some(Saw::Value(some("b")))), Ok(()));
        assert_eq!(register.settled(), Some(&some("b")));
        // The other order is over.
        assert!(read(&mut register, some("a")).is_err());
    }

    #[test]
    fn a_write_with_an_unknown_outcome_happens_late_once_or_never() {
        let mut register = Register::default();
        write(&mut register, some("a"));
        register.begin_write(some("b"));
        assert_eq!(register.end_unknown(), Ok(()));
        assert_eq!(register.settled(), None);
        assert_eq!(read(&mut register, some("a")), Ok(()));
        write(&mut register, some("c"));
        assert_eq!(read(&mut register, some("c")), Ok(()));
        assert_eq!(read(&mut register, some("b")), Ok(()));
        assert_eq!(register.settled(), Some(&some("b")));
        assert!(read(&mut register, some("c")).is_err(), "b came after it");
    }
}
