//! What reaches the disk of what nobody synced.

/// Which of the pending changes a crash, or a sync that fails, leaves on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// None of them.
    Nothing,
    /// All of them; of an operation that was cut short by the crash, still nothing.
    Everything,
    /// Some of them, whole or in part and in disregard of their order, by this seed.
    Seeded(u64),
}

impl From<u64> for Survival {
    fn from(seed: u64) -> Survival {
        Survival::Seeded(seed)
    }
}

/// What becomes of one pending change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Kept,
    Lost,
    /// Kept in part, if it has parts.
    Torn,
}

/// Deals out the fates of one crash.
pub struct Fates {
    survival: Survival,
    random: Random,
}

impl Fates {
    pub fn new(survival: Survival) -> Fates {
        let seed = match survival {
            Survival::Seeded(seed) => seed,
            Survival::Nothing | Survival::Everything => 0,
        };
        Fates {
            survival,
            random: Random(seed),
        }
    }

    /// The fates of the changes that one file or folder has pending, from the oldest to the newest.
    pub fn deal(&mut self, changes: usize) -> Vec<Fate> {
        match self.survival {
            Survival::Nothing => vec![Fate::Lost; changes],
            Survival::Everything => vec![Fate::Kept; changes],
            Survival::Seeded(_) if changes == 0 => Vec::new(),
            Survival::Seeded(_) => self.draw(changes),
        }
    }

    /// Even odds for each change alone would hardly ever lose a whole file, or all after a point in
    /// time; and such are the crashes that happen.
    fn draw(&mut self, changes: usize) -> Vec<Fate> {
        let random = &mut self.random;
        match random.below(7) {
            0 => vec![Fate::Kept; changes],
            1 => vec![Fate::Lost; changes],
            2 => split(random.below(changes), changes, Fate::Kept, Fate::Lost),
            3 => split(random.below(changes), changes, Fate::Lost, Fate::Kept),
            _ => {
                let kept = [1, 4, 7][random.below(3)];
                let mut draw = || match random.below(8) {
                    drawn if drawn < kept => Fate::Kept,
                    _ if random.coin() => Fate::Torn,
                    _ => Fate::Lost,
                };
                (0..changes).map(|_| draw()).collect()
            }
        }
    }

    /// Which of its sectors a torn write keeps.
    pub fn tear(&mut self, sectors: usize) -> Vec<bool> {
        let random = &mut self.random;
        match random.below(3) {
            0 => {
                let kept = random.below(sectors + 1);
                (0..sectors).map(|sector| sector < kept).collect()
            }
            1 => {
                let lost = random.below(sectors);
                (0..sectors).map(|sector| sector != lost).collect()
            }
            _ => (0..sectors).map(|_| random.coin()).collect(),
        }
    }

    /// Whether a torn write made the file as long as the whole write would have.
    pub fn keeps_length(&mut self) -> bool {
        self.random.coin()
    }

    /// How much of the beginning of a write that failed was written.
    pub fn prefix(&mut self, bytes: usize) -> usize {
        match self.survival {
            Survival::Nothing => 0,
            Survival::Everything => bytes,
            Survival::Seeded(_) => self.random.below(bytes + 1),
        }
    }
}

/// One fate before a point in time and another after it; the change at that point is torn.
fn split(point: usize, changes: usize, before: Fate, after: Fate) -> Vec<Fate> {
    let mut fates = vec![before; changes];
    fates[point..].fill(after);
    fates[point] = Fate::Torn;
    fates
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}
