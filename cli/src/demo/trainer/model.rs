//! The network: 64 pixels, one hidden layer with ReLU, softmax over 10 digits; its gradient and its optimizer.
//!
//! Bits matter here. Every sum is a plain loop in a fixed order, nothing is fused or reassociated, and no
//! result that reaches a parameter comes from the platform's libm (whose `expf` differs between C libraries and
//! even between processors): the same inputs give the same parameter bits on every machine. Does no I/O.

use super::data::{CLASSES, Images, PIXELS, SplitMix64};

/// How much of the last update carries over into the next.
const MOMENTUM: f32 = 0.9;

/// Sizes of the network and the places of its four parts in one flat vector of parameters:
/// `w1[PIXELS][hidden]`, `b1[hidden]`, `w2[hidden][CLASSES]`, `b2[CLASSES]`.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    hidden: usize,
}

impl Shape {
    /// A network with `hidden` units in its hidden layer.
    pub(super) fn new(hidden: usize) -> Shape {
        Shape { hidden }
    }

    /// How many parameters the network has.
    pub(super) fn parameters(self) -> usize {
        PIXELS * self.hidden + self.hidden + self.hidden * CLASSES + CLASSES
    }

    fn parts(self, all: &[f32]) -> [&[f32]; 4] {
        let (w1, rest) = all.split_at(PIXELS * self.hidden);
        let (b1, rest) = rest.split_at(self.hidden);
        let (w2, b2) = rest.split_at(self.hidden * CLASSES);
        [w1, b1, w2, b2]
    }

    fn parts_mut(self, all: &mut [f32]) -> [&mut [f32]; 4] {
        let (w1, rest) = all.split_at_mut(PIXELS * self.hidden);
        let (b1, rest) = rest.split_at_mut(self.hidden);
        let (w2, b2) = rest.split_at_mut(self.hidden * CLASSES);
        [w1, b1, w2, b2]
    }

    /// The parameters that training with `seed` begins with: uniform, scaled to each layer's inputs; biases 0.
    pub(super) fn initial(self, seed: u64) -> Vec<f32> {
        let mut random = SplitMix64::new(seed, 0);
        let mut parameters = vec![0.0; self.parameters()];
        let [w1, _, w2, _] = self.parts_mut(&mut parameters);
        for (weights, inputs) in [(w1, PIXELS), (w2, self.hidden)] {
            let scale = (6.0 / inputs as f32).sqrt() * 0.5;
            for weight in weights {
                *weight = random.signed_unit() * scale;
            }
        }
        parameters
    }
}

/// Computes outputs and gradients of one network; owns the scratch space that this needs.
pub(super) struct Network {
    shape: Shape,
    hidden: Vec<f32>,
    hidden_gradient: Vec<f32>,
}

impl Network {
    /// Scratch space for networks of this shape.
    pub(super) fn new(shape: Shape) -> Network {
        Network {
            shape,
            hidden: vec![0.0; shape.hidden],
            hidden_gradient: vec![0.0; shape.hidden],
        }
    }

    /// Adds the gradient of the images named by `indices` (a sum, not a mean) to `gradient` and returns the sum of
    /// their losses.
    pub(super) fn add_gradient(
        &mut self,
        parameters: &[f32],
        images: &Images,
        indices: &[u32],
        gradient: &mut [f32],
    ) -> f64 {
        let mut loss = 0.0;
        for &index in indices {
            let (pixels, label) = images.get(index as usize);
            let logits = self.forward(parameters, pixels);
            let (mut output_gradient, log_total) = softmax(&logits);
            loss += log_total - f64::from(logits[usize::from(label)]);
            output_gradient[usize::from(label)] -= 1.0;
            self.backward(parameters, pixels, &output_gradient, gradient);
        }
        loss
    }

    /// The share of `images` whose digit the network names, `0.0..=1.0`.
    pub(super) fn accuracy(&mut self, parameters: &[f32], images: &Images) -> f64 {
        let right = (0..images.len())
            .filter(|&index| {
                let (pixels, label) = images.get(index);
                largest(&self.forward(parameters, pixels)) == usize::from(label)
            })
            .count();
        right as f64 / images.len() as f64
    }

    fn forward(&mut self, parameters: &[f32], pixels: &[f32]) -> [f32; CLASSES] {
        let [w1, b1, w2, b2] = self.shape.parts(parameters);
        self.hidden.copy_from_slice(b1);
        for (&pixel, weights) in pixels.iter().zip(w1.chunks_exact(self.shape.hidden)) {
            add_scaled(&mut self.hidden, pixel, weights);
        }
        let mut logits = [0.0; CLASSES];
        logits.copy_from_slice(b2);
        for (unit, weights) in self.hidden.iter_mut().zip(w2.chunks_exact(CLASSES)) {
            *unit = unit.max(0.0);
            add_scaled(&mut logits, *unit, weights);
        }
        logits
    }

    /// Needs the hidden units that `forward` left for the same image.
    fn backward(
        &mut self,
        parameters: &[f32],
        pixels: &[f32],
        output: &[f32; CLASSES],
        gradient: &mut [f32],
    ) {
        let [_, _, w2, _] = self.shape.parts(parameters);
        let [g_w1, g_b1, g_w2, g_b2] = self.shape.parts_mut(gradient);
        add_scaled(g_b2, 1.0, output);
        let layers = w2.chunks_exact(CLASSES).zip(g_w2.chunks_exact_mut(CLASSES));
        for ((&unit, below), (weights, g_weights)) in self
            .hidden
            .iter()
            .zip(&mut self.hidden_gradient)
            .zip(layers)
        {
            add_scaled(g_weights, unit, output);
            let mut sum = 0.0;
            for (&weight, &out) in weights.iter().zip(output) {
                sum += weight * out;
            }
            *below = if unit > 0.0 { sum } else { 0.0 };
        }
        add_scaled(g_b1, 1.0, &self.hidden_gradient);
        for (&pixel, g_weights) in pixels.iter().zip(g_w1.chunks_exact_mut(self.shape.hidden)) {
            add_scaled(g_weights, pixel, &self.hidden_gradient);
        }
    }
}

/// One step of gradient descent with momentum, in place. `gradient` is the sum over `batch` images.
pub(super) fn descend(
    parameters: &mut [f32],
    momentum: &mut [f32],
    gradient: &[f32],
    batch: usize,
    rate: f32,
) {
    let scale = 1.0 / batch as f32;
    for ((parameter, velocity), &slope) in parameters.iter_mut().zip(momentum).zip(gradient) {
        *velocity = MOMENTUM * *velocity + slope * scale;
        *parameter -= rate * *velocity;
    }
}

/// `to[i] += factor * from[i]`. Each element has its own sum, so the compiler may use vector
/// instructions without changing a bit.
fn add_scaled(to: &mut [f32], factor: f32, from: &[f32]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

/// The probabilities, and the logarithm of the sum of exponentials (for the loss, which is shown but
/// never reaches a parameter: the platform's logarithm will do).
fn softmax(logits: &[f32; CLASSES]) -> ([f32; CLASSES], f64) {
    let top = logits[largest(logits)];
    let mut exponentials = [0.0_f64; CLASSES];
    let mut total = 0.0_f64;
    for (exponential, &logit) in exponentials.iter_mut().zip(logits) {
        *exponential = exp_of_nonpositive(f64::from(logit - top));
        total += *exponential;
    }
    (
        exponentials.map(|e| (e / total) as f32),
        f64::from(top) + total.ln(),
    )
}

/// `e^x` for `x <= 0` by additions and multiplications alone, good to 1e-12: e^x = 2^k * e^r with |r| <= ln 2 / 2.
fn exp_of_nonpositive(x: f64) -> f64 {
    if x < -700.0 {
        return 0.0;
    }
    let k = (x * std::f64::consts::LOG2_E).round();
    let r = x - k * std::f64::consts::LN_2;
    let mut sum = 1.0;
    for n in (1..=12).rev() {
        sum = 1.0 + sum * r / f64::from(n);
    }
    // A NaN (a diverged run) gives k = 0 here and stays NaN by way of `sum`.
    let exponent = 1023 + k as i64;
    sum * f64::from_bits((exponent as u64) << 52)
}

/// The first of the largest values.
fn largest(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, &value) in values.iter().enumerate() {
        if value > values[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::data::Digits;
    use super::*;

    #[test]
    fn the_exponential_is_right() {
        for thousandth in 0..700_000 {
            let x = -f64::from(thousandth) / 1000.0;
            let (ours, platform) = (exp_of_nonpositive(x), x.exp());
            assert!(
                (ours - platform).abs() <= platform * 1e-12,
                "exp({x}): {ours} or {platform}"
            );
        }
        assert_eq!(exp_of_nonpositive(-1e9), 0.0);
        assert_eq!(exp_of_nonpositive(f64::NEG_INFINITY), 0.0);
        assert!(exp_of_nonpositive(f64::NAN).is_nan());
    }

    #[test]
    fn the_gradient_agrees_with_finite_differences() {
        let digits = Digits::load().expect("the built-in data set parses");
        let shape = Shape::new(5);
        let mut network = Network::new(shape);
        let parameters = shape.initial(3);
        let indices = [0, 1, 2, 3, 4, 5, 6, 7];
        let mut gradient = vec![0.0; shape.parameters()];
        network.add_gradient(&parameters, &digits.train, &indices, &mut gradient);

        let mut loss_with = |at: usize, change: f32| {
            let mut moved = parameters.clone();
            moved[at] += change;
            let mut ignored = vec![0.0; shape.parameters()];
            network.add_gradient(&moved, &digits.train, &indices, &mut ignored)
        };
        let mut not_zero = 0;
        for (at, &slope) in gradient.iter().enumerate() {
            const CHANGE: f32 = 4e-3;
            let measured =
                (loss_with(at, CHANGE) - loss_with(at, -CHANGE)) / f64::from(2.0 * CHANGE);
            let tolerance = 2e-3 + 1e-2 * measured.abs();
            assert!(
                (f64::from(slope) - measured).abs() < tolerance,
                "parameter {at}: {slope} computed, {measured} measured"
            );
            not_zero += usize::from(slope != 0.0);
        }
        assert!(
            not_zero > shape.parameters() / 2,
            "only {not_zero} slopes are not zero: the check says nothing"
        );
    }

    #[test]
    fn descent_is_momentum_then_step() {
        let (mut parameters, mut momentum) = (vec![1.0, 2.0], vec![0.5, 0.0]);
        descend(&mut parameters, &mut momentum, &[4.0, -8.0], 4, 0.5);
        assert_eq!(momentum, [0.9 * 0.5 + 1.0, -2.0]);
        assert_eq!(parameters, [1.0 - 0.5 * (0.9 * 0.5 + 1.0), 3.0]);
    }

    #[test]
    fn a_seed_decides_the_start() {
        let shape = Shape::new(16);
        assert_eq!(shape.initial(1), shape.initial(1));
        assert_ne!(shape.initial(1), shape.initial(2));
    }
}
