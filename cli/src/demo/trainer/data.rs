//! The handwritten digits that ship with the binary, a fixed split of them, and the order in which they are used.
//!
//! Everything here is a function of its arguments: no clock, no files, no random source but a seed. Does not
//! train, download or convert anything.

use std::io::Read as _;

use anyhow::{Context as _, Result, ensure};

/// The data set as it ships: gzip of CSV, one image a line, 64 grey values `0..=16` and the digit.
/// Source and licence are in `cli/data/README.md`.
pub const DIGITS_CSV_GZ: &[u8] = include_bytes!("../../../data/digits.csv.gz");

/// Pixels of an image (8 x 8).
pub(super) const PIXELS: usize = 64;
/// Classes: the digits 0 to 9.
pub(super) const CLASSES: usize = 10;
/// Images in the data set.
const IMAGES: usize = 1797;
/// The split must be the same for every seed, or accuracies could not be compared.
const SPLIT_SEED: u64 = 0x6469_6769_7473;

/// Images with their labels; pixel values are scaled to `0.0..=1.0` (exact in binary: the raw range is 16).
pub(super) struct Images {
    pixels: Vec<f32>,
    labels: Vec<u8>,
}

impl Images {
    /// How many images there are.
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// One image and its digit.
    pub(super) fn get(&self, index: usize) -> (&[f32], u8) {
        let at = index * PIXELS;
        (&self.pixels[at..at + PIXELS], self.labels[index])
    }

    fn select(&self, indices: &[u32]) -> Images {
        let mut chosen = Images {
            pixels: Vec::with_capacity(indices.len() * PIXELS),
            labels: Vec::with_capacity(indices.len()),
        };
        for &index in indices {
            let (pixels, label) = self.get(index as usize);
            chosen.pixels.extend_from_slice(pixels);
            chosen.labels.push(label);
        }
        chosen
    }
}

/// The data set in its two parts.
pub(super) struct Digits {
    /// What the network learns from (80 %).
    pub(super) train: Images,
    /// What accuracy is measured on; never trained on (20 %).
    pub(super) held_out: Images,
}

impl Digits {
    /// Unpacks the data set that ships with the binary and splits it, always the same way.
    pub(super) fn load() -> Result<Digits> {
        let mut text = String::new();
        flate2::read::GzDecoder::new(DIGITS_CSV_GZ)
            .read_to_string(&mut text)
            .context("cannot unpack the digits that are built into this binary")?;
        let all = parse(&text)?;
        ensure!(
            all.len() == IMAGES,
            "the built-in digits hold {} images instead of {IMAGES}: this binary was built from a damaged data file",
            all.len()
        );
        let order = permutation(IMAGES, &mut SplitMix64::new(SPLIT_SEED, 0));
        let (train, held_out) = order.split_at(IMAGES - IMAGES / 5);
        Ok(Digits {
            train: all.select(train),
            held_out: all.select(held_out),
        })
    }
}

fn parse(text: &str) -> Result<Images> {
    let mut images = Images {
        pixels: Vec::new(),
        labels: Vec::new(),
    };
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let values = line
            .split(',')
            .map(str::parse::<u8>)
            .collect::<Result<Vec<u8>, _>>()
            .with_context(|| {
                format!("line {number} of the digits is not a list of small numbers")
            })?;
        let (&label, pixels) = values.split_last().context("a line without values")?;
        ensure!(
            pixels.len() == PIXELS
                && pixels.iter().all(|&p| p <= 16)
                && usize::from(label) < CLASSES,
            "line {number} of the digits is not {PIXELS} values of 0 to 16 and a digit"
        );
        images
            .pixels
            .extend(pixels.iter().map(|&p| f32::from(p) / 16.0));
        images.labels.push(label);
    }
    Ok(images)
}

/// Which images make up each batch: a function of (seed, step) alone, so that an interrupted run that
/// starts again at any step sees exactly the batches it would have seen.
pub(super) struct Batches {
    seed: u64,
    images: usize,
    batch: usize,
    epoch: Option<u64>,
    order: Vec<u32>,
}

impl Batches {
    /// Batches of `batch` images out of `images`. Requires `1 <= batch <= images`.
    pub(super) fn new(seed: u64, images: usize, batch: usize) -> Batches {
        assert!(
            (1..=images).contains(&batch),
            "the caller checked the batch size"
        );
        Batches {
            seed,
            images,
            batch,
            epoch: None,
            order: Vec::new(),
        }
    }

    /// The images of step `step` (counted from 0), the same on every rank. Every epoch has its own order;
    /// what is left over at its end is skipped.
    pub(super) fn of_step(&mut self, step: u64) -> &[u32] {
        let per_epoch = (self.images / self.batch) as u64;
        let epoch = step / per_epoch;
        if self.epoch != Some(epoch) {
            // Stream 0 of a seed belongs to the initial parameters.
            self.order = permutation(self.images, &mut SplitMix64::new(self.seed, 1 + epoch));
            self.epoch = Some(epoch);
        }
        let at = (step % per_epoch) as usize * self.batch;
        &self.order[at..at + self.batch]
    }
}

/// The part of `total` items that rank `rank` of `world` works on: contiguous, and sizes differ by one at most.
pub(super) fn share(total: usize, rank: usize, world: usize) -> std::ops::Range<usize> {
    total * rank / world..total * (rank + 1) / world
}

/// A small generator whose every output follows from (seed, stream): SplitMix64.
pub(super) struct SplitMix64(u64);

impl SplitMix64 {
    /// The generator of stream `stream` of `seed`.
    pub(super) fn new(seed: u64, stream: u64) -> SplitMix64 {
        let seed = SplitMix64(seed).next();
        let stream = SplitMix64(stream.wrapping_add(0x5EED)).next();
        SplitMix64(seed ^ stream.rotate_left(32))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `-1.0..1.0`; 24 random bits, so that it is exact in `f32`.
    pub(super) fn signed_unit(&mut self) -> f32 {
        let bits = (self.next() >> 40) as u32;
        bits as f32 / (1 << 23) as f32 - 1.0
    }

    /// A number below `bound`, which is not 0 (the bias of 2^-32 does not matter here).
    fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

fn permutation(len: usize, random: &mut SplitMix64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len as u32).collect();
    for last in (1..len).rev() {
        order.swap(last, random.below(last as u32 + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_set_is_whole_and_split_without_overlap() {
        let digits = Digits::load().expect("the built-in data set parses");
        assert_eq!((digits.train.len(), digits.held_out.len()), (1438, 359));
        // The published class counts of the data set: a shuffled or cut file would not have them.
        let mut counts = [0; CLASSES];
        for part in [&digits.train, &digits.held_out] {
            for index in 0..part.len() {
                counts[usize::from(part.get(index).1)] += 1;
            }
        }
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        let order = permutation(IMAGES, &mut SplitMix64::new(SPLIT_SEED, 0));
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(
            sorted.iter().copied().eq(0..IMAGES as u32),
            "every image once"
        );
    }

    #[test]
    fn the_copy_beside_the_examples_is_the_same_file() {
        let copy: &[u8] = include_bytes!("../../../../examples/digits.csv.gz");
        assert!(copy == DIGITS_CSV_GZ);
    }

    #[test]
    fn damaged_lines_are_refused_by_number() {
        let good = format!("{}7", "0,".repeat(64));
        let check = |line: &str| {
            let text = format!("{good}\n{line}\n");
            parse(&text)
                .map(|images| images.len())
                .map_err(|error| format!("{error:#}"))
        };
        assert_eq!(check(&good), Ok(2));
        for bad in [
            "",
            "1,2,3",
            "x",
            &format!("{}7", "17,".repeat(64)),
            &format!("{}10", "0,".repeat(64)),
            &format!("{}7", "0,".repeat(65)),
            &format!("{}7", "-1,".repeat(64)),
        ] {
            let error = check(bad).expect_err(bad);
            assert!(error.contains("line 2"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_batch_is_a_function_of_seed_and_step() {
        let mut forward = Batches::new(7, 100, 30);
        let seen: Vec<Vec<u32>> = (0..9).map(|step| forward.of_step(step).to_vec()).collect();
        // Asking in another order, or from the middle, gives the same.
        let mut backward = Batches::new(7, 100, 30);
        for step in (0..9).rev() {
            assert_eq!(backward.of_step(step), seen[step as usize]);
        }
        // Within an epoch no image comes twice; another epoch and another seed have another order.
        let mut epoch: Vec<u32> = seen[..3].concat();
        epoch.sort_unstable();
        epoch.dedup();
        assert_eq!(epoch.len(), 90);
        assert_ne!(seen[0], seen[3]);
        assert_ne!(seen[0], Batches::new(8, 100, 30).of_step(0));
    }

    #[test]
    fn shares_cover_everything_once() {
        for world in 1..=7 {
            for total in [world, 10, 256] {
                let all: Vec<usize> = (0..world)
                    .flat_map(|rank| share(total, rank, world))
                    .collect();
                assert!(all.into_iter().eq(0..total), "{total} over {world}");
            }
        }
    }
}
