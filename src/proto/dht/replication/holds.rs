//! What other members have told this node to keep copies of, and which of them may no longer change their copies.
//!
//! ```text
//! owner ──XHOLD range, complete──▶ held ──XPUT, XDEL──▶ taken when the owner, its epoch and the key fit
//! heir of a dead owner ──XFENCE──▶ fenced: nothing more from this owner with that epoch or an earlier one
//! ```
//! A fence is what makes absorbing safe: an owner that is slow and not dead cannot get another write acknowledged, since one
//! of its holders refuses it.
//!
//! What it does not do: store entries, or decide who holds what (see [`super::copies`]).

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use crate::proto::dht::id::Id;

/// Owners whose copies are here. A node keeps those of the R - 1 members after it; while members come and go, of some more.
const HELD_MAX: usize = 64;

/// A fence is needed while an owner that was deposed has not heard of it: seconds.
const FENCES_MAX: usize = 256;

/// What an owner said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub owner: SocketAddrV4,
    /// Rises when a holder is left out, so that its copies are known to be old.
    pub epoch: u64,
    pub start: Id,
    pub end: Id,
    /// Every acknowledged write of the range is here.
    pub complete: bool,
}

#[derive(Debug, Default)]
pub struct Holds {
    /// The one that was heard of last is the last.
    held: VecDeque<Held>,
    /// Owners, with the epoch up to which they are refused.
    fences: VecDeque<(SocketAddrV4, u64)>,
}

impl Holds {
    /// XHOLD. False: the owner is fenced; or it takes this node for complete, which knows nothing of it, as it was started anew.
    #[must_use]
    pub fn told(&mut self, held: Held) -> bool {
        let is_known = self.of(held.owner).is_some();
        if self.is_fenced(held.owner, held.epoch) || held.complete && !is_known {
            return false;
        }
        self.held.retain(|other| other.owner != held.owner);
        if self.held.len() == HELD_MAX {
            self.held.pop_front();
        }
        self.held.push_back(held);
        true
    }

    /// XPUT or XDEL of an owner: this node was told to hold the key, and the owner is not fenced.
    pub fn takes(&self, owner: SocketAddrV4, epoch: u64, key: Id) -> bool {
        let fits = |held: &Held| held.epoch == epoch && key.in_arc(held.start, held.end);
        self.of(owner).is_some_and(fits) && !self.is_fenced(owner, epoch)
    }

    /// XFENCE: from now on the owner is refused with the epoch that it has here, and with earlier ones. The answer is what it
    /// said last.
    pub fn fence(&mut self, owner: SocketAddrV4) -> Option<Held> {
        let held = self.of(owner).copied();
        if let Some(held) = held {
            self.fences.retain(|(fenced, _)| *fenced != owner);
            if self.fences.len() == FENCES_MAX {
                self.fences.pop_front();
            }
            self.fences.push_back((owner, held.epoch));
        }
        held
    }

    pub fn of(&self, owner: SocketAddrV4) -> Option<&Held> {
        self.held.iter().find(|held| held.owner == owner)
    }

    /// The owner leaves this node out, or its range is another's now.
    pub fn drop_owner(&mut self, owner: SocketAddrV4) {
        self.held.retain(|held| held.owner != owner);
    }

    /// This node lost what it had, or is about to join anew.
    pub fn clear(&mut self) {
        self.held.clear();
    }

    fn is_fenced(&self, owner: SocketAddrV4, epoch: u64) -> bool {
        let mut fences = self.fences.iter();
        fences.any(|(fenced, up_to)| *fenced == owner && epoch <= *up_to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u16) -> SocketAddrV4 {
        SocketAddrV4::new([10, 0, 0, 1].into(), n)
    }

    fn id(n: u8) -> Id {
        let mut bytes = [0; 20];
        bytes[19] = n;
        Id::from_be_bytes(bytes)
    }

    fn held(owner: u16, epoch: u64) -> Held {
        Held {
            owner: addr(owner),
            epoch,
            start: id(10),
            end: id(20),
            complete: false,
        }
    }

    #[test]
    fn a_write_fits_its_owner_epoch_and_range() {
        let mut holds = Holds::default();
        assert!(!holds.takes(addr(1), 5, id(10)));
        let complete = Held {
            complete: true,
            ..held(1, 5)
        };
        assert!(!holds.told(complete));
        assert!(holds.told(held(1, 5)) && holds.told(complete));
        assert!(holds.takes(addr(1), 5, id(10)));
        assert!(!holds.takes(addr(1), 5, id(20)));
        assert!(!holds.takes(addr(1), 4, id(10)));
        assert!(!holds.takes(addr(1), 6, id(10)));
        assert!(!holds.takes(addr(2), 5, id(10)));
    }

    #[test]
    fn a_fenced_owner_comes_back_with_a_later_epoch_only() {
        let mut holds = Holds::default();
        assert_eq!(holds.fence(addr(1)), None);
        assert!(holds.told(held(1, 5)));
        assert_eq!(holds.fence(addr(1)), Some(held(1, 5)));
        assert!(!holds.takes(addr(1), 5, id(10)));
        assert!(!holds.told(held(1, 5)));
        assert!(holds.told(held(1, 6)));
        assert!(holds.takes(addr(1), 6, id(10)));
    }

    #[test]
    fn tables_are_bounded() {
        let mut holds = Holds::default();
        for n in 1..=1_000 {
            assert!(holds.told(held(n, 1)));
            holds.fence(addr(n));
        }
        assert_eq!(
            (holds.held.len(), holds.fences.len()),
            (HELD_MAX, FENCES_MAX)
        );
        assert!(!holds.told(held(1_000, 1)));
    }
}
