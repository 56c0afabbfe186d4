//! Numbers as decimal digits, without the formatting machinery, which takes several times as long.

/// Digits of the largest number, and a point.
const BYTES_MAX: usize = 21;

/// A number's digits, on the stack.
#[derive(Debug, Clone, Copy)]
pub struct Decimal {
    text: [u8; BYTES_MAX],
    start: usize,
}

impl Decimal {
    const EMPTY: Decimal = Decimal {
        text: [0; BYTES_MAX],
        start: BYTES_MAX,
    };

    /// Without leading zeros.
    pub fn of(number: u64) -> Decimal {
        Decimal::EMPTY.before(number, 1)
    }

    /// The same with a point before the last `decimals` digits, at most 19; one digit at least stands before it.
    pub fn with_point(number: u64, decimals: u32) -> Decimal {
        let unit = 10_u64.pow(decimals);
        let mut both = Decimal::EMPTY.before(number % unit, decimals);
        both.start -= 1;
        both.text[both.start] = b'.';
        both.before(number / unit, 1)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.text[self.start..]
    }

    /// Puts a number in front, with zeros up to `digits_min`.
    fn before(mut self, number: u64, digits_min: u32) -> Decimal {
        let (mut left, mut digits) = (number, 0);
        while left > 0 || digits < digits_min {
            self.start -= 1;
            self.text[self.start] = b'0' + (left % 10) as u8;
            left /= 10;
            digits += 1;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_formatter() {
        let powers = (0..20).map(|n| 10_u64.pow(n));
        let near = powers.flat_map(|power| [power - 1, power, power + 1]);
        for number in near.chain([u64::MAX, 42, 1_048_576]) {
            let text = |decimal: Decimal| String::from_utf8(decimal.as_bytes().to_vec());
            assert_eq!(text(Decimal::of(number)), Ok(number.to_string()));
            for decimals in [1, 6, 19] {
                let unit = 10_u64.pow(decimals);
                let width = decimals as usize;
                let want = format!("{}.{:0width$}", number / unit, number % unit);
                assert_eq!(text(Decimal::with_point(number, decimals)), Ok(want));
            }
        }
    }
}
