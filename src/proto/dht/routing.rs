//! What a node knows of the ring: itself and its neighbours.

use std::net::SocketAddrV4;

use super::id::Id;

/// A member of the ring: an address, and the id that is its SHA-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    pub id: Id,
    pub addr: SocketAddrV4,
}

impl Member {
    pub fn at(addr: SocketAddrV4) -> Member {
        Member {
            id: Id::of_addr(addr),
            addr,
        }
    }
}

/// The neighbours of a node. Alone, it is its own next.
#[derive(Debug, Clone)]
pub struct Routing {
    me: Member,
    next: Member,
}

impl Routing {
    /// A ring of one.
    pub fn alone(me: Member) -> Routing {
        Routing { me, next: me }
    }

    pub fn me(&self) -> Member {
        self.me
    }

    /// A node owns the keys from its own id (included) up to its next node's (excluded).
    pub fn owns(&self, key: Id) -> bool {
        key.in_arc(self.me.id, self.next.id)
    }

    /// Of all nodes that this one knows, the last at or before `key`.
    pub fn closest(&self, key: Id) -> Member {
        let by_distance =
            |a: &&Member, b: &&Member| a.id.distance_to(key).cmp(&b.id.distance_to(key));
        *[self.me, self.next]
            .iter()
            .min_by(by_distance)
            .unwrap_or(&self.me)
    }
}
