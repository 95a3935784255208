//! Medians, ratios and their confidence intervals.

/// A value with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Resamples for one interval; the interval's own error is then far below its width.
const RESAMPLES: usize = 4000;

/// The median of the values; 0 without any.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The median with a bootstrap interval (percentile method). The generator is seeded with a constant,
/// so that the same rounds give the same interval.
pub(crate) fn estimate(values: &[f64]) -> Estimate {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sample: Vec<f64> = values.iter().map(|_| values[random.below(values.len())]).collect();
            median(&sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Estimate {
        median: median(values),
        low: medians[RESAMPLES * 25 / 1000],
        high: medians[RESAMPLES * 975 / 1000 - 1],
    }
}

/// Ours over theirs, round by round: the drift of the machine moves both and cancels out.
pub(crate) fn paired(ours: &[Option<f64>], theirs: &[Option<f64>]) -> Vec<f64> {
    ours.iter().zip(theirs).filter_map(|(a, b)| Some(a.as_ref()? / b.as_ref()?)).collect()
}

/// SplitMix64.
struct Random(u64);

// === impl Estimate ===

impl Estimate {
    /// Half the interval's width, relative to the median.
    pub(crate) fn half_width(&self) -> f64 {
        (self.high - self.low) / 2.0 / self.median
    }
}

// === impl Random ===

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        usize::try_from(z % bound as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_values_lies_between_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[5.0, 1.0, 3.0]), 3.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn an_interval_holds_the_median_and_narrows_to_nothing_without_spread() {
        let spread = estimate(&[9.0, 10.0, 11.0, 10.5, 9.5, 10.2, 9.8]);
        assert!(spread.low <= spread.median && spread.median <= spread.high);
        assert!(spread.half_width() > 0.0);
        let flat = estimate(&[7.0; 9]);
        assert_eq!((flat.low, flat.high), (7.0, 7.0));
    }

    #[test]
    fn a_round_that_either_side_lost_makes_no_ratio() {
        let ratios = paired(&[Some(1.0), None, Some(3.0)], &[Some(2.0), Some(2.0), None]);
        assert_eq!(ratios, [0.5]);
    }
}
