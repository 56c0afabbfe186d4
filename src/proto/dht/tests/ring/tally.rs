//! What happened in the runs: a test in which nothing happens finds nothing.

/// What happened in a run: a test in which nothing happens finds nothing.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub(super) joins: u32,
    pub(super) leaves: u32,
    pub(super) kills: u32,
    pub(super) restarts: u32,
    pub(super) writes: u32,
    pub(super) reads: u32,
    pub(super) unknown: u32,
    pub(super) failed_reads: u32,
    /// Moments at which writes were fenced, and at which a request was parked.
    pub(super) fenced: u32,
    pub(super) parked: u32,
}

impl Tally {
    pub(super) fn add(&mut self, other: Tally) {
        self.joins += other.joins;
        self.leaves += other.leaves;
        self.kills += other.kills;
        self.restarts += other.restarts;
        self.writes += other.writes;
        self.reads += other.reads;
        self.unknown += other.unknown;
        self.failed_reads += other.failed_reads;
        self.fenced += other.fenced;
        self.parked += other.parked;
    }

    /// Everything that `runs` storms are to test happened in one of them.
    #[track_caller]
    pub(super) fn check(self, runs: u32, restarts: bool) {
        // A replay of one seed need not have everything.
        if runs < 40 {
            return;
        }
        let Tally {
            joins,
            leaves,
            kills,
            restarts: back,
            writes,
            reads,
            unknown,
            fenced,
            parked,
            ..
        } = self;
        assert!(
            joins > 2 * runs && leaves > runs && writes > 10 * runs && reads > 10 * runs,
            "in {runs} runs {self:?}"
        );
        let rare = [kills, unknown, fenced, parked];
        assert!(
            rare.iter().all(|count| *count > 0),
            "in {runs} runs {self:?}"
        );
        assert_eq!(back > 0, restarts, "in {runs} runs {self:?}");
    }
}
