//! What waits to be sent on one connection: small pieces copied into a tail, large ones by reference.
//!
//! ```text
//!   queue:  block, block, ... | tail
//!           ^ sent bytes of the first piece
//! ```
//! Invariants: a queue exists only while it holds something (an idle connection owns none);
//! `sent <` length of the first piece; blocks are never empty.
//!
//! What the queues of a node own, tails and copied blocks, is counted where a flush leaves something behind: the sum is
//! `QueuePool::owned_bytes`. A block by reference is counted by the service that holds it.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// Slices offered in one vectored write: beyond this the cost is in the bytes.
const SLICES_MAX: usize = 16;

/// Sent bytes in front of a tail that are worth moving the rest for: a page.
const COMPACT_BYTES_MIN: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Output {
    queue: Option<Box<Queue>>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    blocks: VecDeque<Block>,
    /// Total length of `blocks`, and of those among them that were copied.
    block_bytes: usize,
    copied_bytes: usize,
    /// What the pool has counted of this queue.
    counted_bytes: usize,
    tail: Vec<u8>,
    /// Bytes of the first piece (the first block, or the tail when there is none) that are sent.
    sent: usize,
}

#[derive(Debug)]
struct Block {
    bytes: Bytes,
    /// Ours alone: it was a tail.
    is_copy: bool,
}

impl Queue {
    fn unsent(&self) -> usize {
        self.block_bytes + self.tail.len() - self.sent
    }
}

/// Spare queues, so that the steady state allocates nothing.
#[derive(Debug)]
pub(super) struct QueuePool {
    // The boxes are what is reused: a connection holds one pointer, not a whole queue.
    #[expect(clippy::vec_box)]
    spare: Vec<Box<Queue>>,
    owned_bytes: usize,
    buffers_max: usize,
    buffer_bytes_max: usize,
}

impl QueuePool {
    pub(super) fn new(buffers_max: usize, buffer_bytes_max: usize) -> QueuePool {
        QueuePool {
            spare: Vec::new(),
            owned_bytes: 0,
            buffers_max,
            buffer_bytes_max,
        }
    }

    fn take(&mut self) -> Box<Queue> {
        self.spare.pop().unwrap_or_default()
    }

    /// Bytes that queues owned when they were last counted.
    pub(super) fn owned_bytes(&self) -> usize {
        self.owned_bytes
    }

    fn give_back(&mut self, mut queue: Box<Queue>) {
        self.owned_bytes -= std::mem::take(&mut queue.counted_bytes);
        if self.spare.len() < self.buffers_max && queue.tail.capacity() <= self.buffer_bytes_max {
            queue.blocks.clear();
            queue.block_bytes = 0;
            queue.copied_bytes = 0;
            queue.tail.clear();
            queue.sent = 0;
            self.spare.push(queue);
        }
    }
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_none()
    }

    /// Bytes that are not sent yet.
    pub(super) fn len(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.unsent())
    }

    /// Where small pieces are written. The caller must write something, or call [`Output::trim`].
    pub(super) fn tail(&mut self, pool: &mut QueuePool) -> &mut Vec<u8> {
        &mut self.queue.get_or_insert_with(|| pool.take()).tail
    }

    /// Appends a large piece without copying it.
    pub(super) fn push(&mut self, block: Bytes, pool: &mut QueuePool) {
        if block.is_empty() {
            return;
        }
        let queue = self.queue.get_or_insert_with(|| pool.take());
        if !queue.tail.is_empty() {
            // What stands in the tail comes first; it becomes a block, and `sent` still counts from
            // the front of the first piece.
            let before = Bytes::copy_from_slice(&queue.tail);
            queue.tail.clear();
            queue.block_bytes += before.len();
            queue.copied_bytes += before.len();
            queue.blocks.push_back(Block {
                bytes: before,
                is_copy: true,
            });
        }
        queue.block_bytes += block.len();
        queue.blocks.push_back(Block {
            bytes: block,
            is_copy: false,
        });
    }

    /// Takes the last `bytes` back; false, and nothing done, unless all of them are in the tail and none is sent.
    pub(super) fn take_back(&mut self, bytes: usize) -> bool {
        let Some(queue) = &mut self.queue else {
            return false;
        };
        let sent = if queue.blocks.is_empty() {
            queue.sent
        } else {
            0
        };
        let kept = queue.tail.len().checked_sub(bytes);
        let kept = kept.filter(|kept| *kept >= sent);
        if let Some(kept) = kept {
            queue.tail.truncate(kept);
        }
        kept.is_some()
    }

    /// Counts what the queue owns by now; true when that is more than the last time.
    pub(super) fn count(&mut self, pool: &mut QueuePool) -> bool {
        let Some(queue) = &mut self.queue else {
            return false;
        };
        let owned = queue.copied_bytes + queue.tail.capacity();
        let before = std::mem::replace(&mut queue.counted_bytes, owned);
        pool.owned_bytes = pool.owned_bytes - before + owned;
        owned > before
    }

    /// What [`Output::count`] counted last.
    pub(super) fn counted_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.counted_bytes)
    }

    /// Gives the queue back when nothing is in it.
    pub(super) fn trim(&mut self, pool: &mut QueuePool) {
        if self.queue.as_ref().is_some_and(|queue| queue.unsent() == 0) {
            self.clear(pool);
        }
    }

    pub(super) fn clear(&mut self, pool: &mut QueuePool) {
        if let Some(queue) = self.queue.take() {
            pool.give_back(queue);
        }
    }

    /// Offers the front of the queue, at most `bytes_max`, to `write`; returns what `write` returned and
    /// how many bytes had been offered.
    pub(super) fn offer<R>(
        &self,
        bytes_max: usize,
        write: impl FnOnce(&[IoSlice<'_>]) -> R,
    ) -> (R, usize) {
        let Some(queue) = &self.queue else {
            return (write(&[]), 0);
        };
        if queue.blocks.is_empty() {
            let end = queue.tail.len().min(queue.sent.saturating_add(bytes_max));
            let piece = &queue.tail[queue.sent..end];
            return (write(&[IoSlice::new(piece)]), piece.len());
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let (mut count, mut left, mut skip) = (0, bytes_max, queue.sent);
        let pieces = queue
            .blocks
            .iter()
            .map(|block| &block.bytes[..])
            .chain([&queue.tail[..]]);
        for piece in pieces.filter(|p| !p.is_empty()) {
            if count == SLICES_MAX || left == 0 {
                break;
            }
            let piece = &piece[skip..];
            skip = 0;
            let piece = &piece[..piece.len().min(left)];
            left -= piece.len();
            slices[count] = IoSlice::new(piece);
            count += 1;
        }
        (write(&slices[..count]), bytes_max - left)
    }

    /// `n` bytes from the front are sent.
    pub(super) fn consume(&mut self, n: usize, pool: &mut QueuePool) {
        assert!(n <= self.len(), "a transport sends what it was offered");
        let Some(queue) = &mut self.queue else { return };
        queue.sent += n;
        while let Some(first) = queue.blocks.front() {
            let len = first.bytes.len();
            if queue.sent < len {
                return;
            }
            queue.sent -= len;
            queue.block_bytes -= len;
            queue.copied_bytes -= if first.is_copy { len } else { 0 };
            queue.blocks.pop_front();
        }
        if queue.sent == queue.tail.len() {
            self.clear(pool);
        } else if queue.sent >= COMPACT_BYTES_MIN && queue.sent * 2 >= queue.tail.len() {
            // A connection that is never quite drained must not grow: what is sent goes once it is
            // the larger part, so that each byte moves at most once on average.
            queue.tail.drain(..queue.sent);
            queue.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(output: &mut Output, pool: &mut QueuePool, chunk: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while !output.is_empty() {
            let before = output.len();
            let (n, offered) = output.offer(chunk, |slices| {
                let mut n = 0;
                for s in slices {
                    sent.extend_from_slice(s);
                    n += s.len();
                }
                n
            });
            assert!(n == offered && n <= chunk && n > 0);
            output.consume(n, pool);
            assert_eq!(output.len(), before - n);
        }
        sent
    }

    #[test]
    fn pieces_leave_in_order_whatever_the_write_size() {
        let big = Bytes::from(vec![b'x'; 1000]);
        for chunk in [1, 2, 3, 7, 999, 1000, 1001, 5000] {
            let mut pool = QueuePool::new(4, 1 << 16);
            let mut out = Output::default();
            out.tail(&mut pool).extend_from_slice(b"head");
            out.push(big.clone(), &mut pool);
            out.push(Bytes::new(), &mut pool);
            out.tail(&mut pool).extend_from_slice(b"middle");
            out.push(big.clone(), &mut pool);
            out.tail(&mut pool).extend_from_slice(b"end");
            let want = [&b"head"[..], &big, b"middle", &big, b"end"].concat();
            assert_eq!(drain(&mut out, &mut pool, chunk), want);
            assert_eq!(pool.spare.len(), 1, "the queue goes back");
        }
    }

    #[test]
    fn a_block_behind_a_partly_sent_tail_keeps_the_place() {
        let mut pool = QueuePool::new(4, 1 << 16);
        let mut out = Output::default();
        out.tail(&mut pool).extend_from_slice(b"abcdef");
        out.consume(4, &mut pool);
        out.push(Bytes::from_static(b"123"), &mut pool);
        out.tail(&mut pool).extend_from_slice(b"gh");
        assert_eq!(out.len(), 7);
        assert_eq!(drain(&mut out, &mut pool, 2), b"ef123gh");
    }

    #[test]
    fn a_tail_that_is_never_quite_drained_does_not_grow() {
        let mut pool = QueuePool::new(4, 1 << 20);
        let mut out = Output::default();
        out.tail(&mut pool).extend_from_slice(&[7; 100]);
        for _ in 0..100_000 {
            out.tail(&mut pool).extend_from_slice(&[7; 100]);
            out.consume(100, &mut pool);
        }
        assert_eq!(out.len(), 100);
        assert!(out.tail(&mut pool).capacity() < 4 * COMPACT_BYTES_MIN);
    }

    #[test]
    fn more_blocks_than_slices() {
        let mut pool = QueuePool::new(4, 1 << 16);
        let mut out = Output::default();
        for i in 0..100u8 {
            out.push(Bytes::copy_from_slice(&[i; 3]), &mut pool);
        }
        let want: Vec<u8> = (0..100u8).flat_map(|i| [i; 3]).collect();
        assert_eq!(drain(&mut out, &mut pool, 1 << 20), want);
    }

    #[test]
    fn a_buffer_that_grew_is_not_pooled() {
        let mut pool = QueuePool::new(4, 16);
        let mut out = Output::default();
        out.tail(&mut pool).extend_from_slice(&[0; 64]);
        out.consume(64, &mut pool);
        assert!(out.is_empty() && pool.spare.is_empty());
    }

    #[test]
    fn what_is_not_sent_is_taken_back() {
        let mut pool = QueuePool::new(4, 1 << 16);
        let mut out = Output::default();
        assert!(!out.take_back(1), "nothing is there");
        out.tail(&mut pool).extend_from_slice(b"abcd");
        out.consume(1, &mut pool);
        assert!(!out.take_back(4), "one byte is sent");
        assert!(out.take_back(1));
        out.push(Bytes::from_static(b"123"), &mut pool);
        assert!(!out.take_back(1), "not out of a block");
        out.tail(&mut pool).extend_from_slice(b"efg");
        assert!(out.take_back(2));
        assert_eq!(drain(&mut out, &mut pool, 2), b"bc123e");
    }

    #[test]
    fn what_queues_own_is_counted_until_it_is_sent() {
        let mut pool = QueuePool::new(4, 1 << 16);
        let (mut one, mut other) = (Output::default(), Output::default());
        assert!(!one.count(&mut pool), "nothing is there");
        one.tail(&mut pool).extend_from_slice(&[1; 5000]);
        one.push(Bytes::from(vec![2; 1 << 20]), &mut pool);
        other.tail(&mut pool).extend_from_slice(&[3; 3000]);
        assert!(one.count(&mut pool) && other.count(&mut pool));
        assert!((8000..20_000).contains(&pool.owned_bytes()), "the copies");
        assert!(!one.count(&mut pool), "no more than before");
        drain(&mut one, &mut pool, 1000);
        drain(&mut other, &mut pool, 1000);
        assert_eq!(pool.owned_bytes(), 0);
    }

    #[test]
    fn an_untouched_tail_is_trimmed() {
        let mut pool = QueuePool::new(4, 16);
        let mut out = Output::default();
        out.tail(&mut pool);
        out.trim(&mut pool);
        assert!(out.is_empty());
    }
}
