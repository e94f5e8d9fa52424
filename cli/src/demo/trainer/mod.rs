//! The built-in trainer: a small network on real handwritten digits, data parallel over the ranks of a job.
//!
//! It shows what any job can do with nothing but the environment it gets: find its peers, train with them, write
//! checkpoints and go on from one after its node died, ending with bit-identical parameters. It knows nothing of
//! coordinators and agents, and it is not a training library: one network, one data set, plain loops.

mod checkpoint;
mod data;
mod model;
mod place;
mod rendezvous;
mod ring;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use checkpoint::{Progress, Recipe};
use data::{Batches, Digits, share};
use model::{Network, Shape, descend};
use place::Place;
use rendezvous::{Party, Patience, Terms};
use ring::Ring;

pub use data::DIGITS_CSV_GZ;

const PATIENCE: Patience = Patience {
    meet: Duration::from_secs(60),
    hello: Duration::from_secs(2),
    silence: Duration::from_secs(30),
};

/// What the trainer can be told; the rest it learns from the environment of its job.
#[derive(Clone, Debug, clap::Args)]
pub struct TrainerArgs {
    /// Steps to train, counted from the start of the first attempt
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub steps: u64,
    /// Decides the initial parameters and the order of the images
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write a checkpoint after every N steps; 0: none
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub checkpoint_every: u64,
    /// Units in the hidden layer
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub hidden: u32,
    /// Images per step, over all ranks
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1438))]
    pub batch: u32,
    /// Learning rate
    #[arg(long, value_name = "RATE", default_value = "0.02", value_parser = learning_rate)]
    pub lr: f32,
    /// Print a line after every N steps
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub log_every: u64,
    /// Let every step take at least this long, in milliseconds, to watch a short training
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=60_000))]
    pub min_step_ms: u64,
}

fn learning_rate(text: &str) -> Result<f32, String> {
    let rate: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    let sensible = rate > 0.0 && rate <= 10.0;
    sensible
        .then_some(rate)
        .ok_or_else(|| "must be more than 0 and at most 10".to_owned())
}

/// Trains as one rank of the job that this process was started for, and prints what happens on stdout.
///
/// # Errors
/// The environment or a checkpoint makes no sense, another rank is gone, or the disk fails.
pub fn run(args: &TrainerArgs) -> Result<()> {
    train(
        args,
        &|name| std::env::var(name).ok(),
        PATIENCE,
        &mut io::stdout(),
    )
}

/// The last line that rank 0 prints, after the word `result`.
#[derive(Serialize)]
struct Outcome {
    /// Share of the held-out images whose digit is named, `0.0..=1.0`.
    accuracy: f64,
    steps: u64,
    /// BLAKE3 of the parameters, in hex.
    params_digest: String,
    resumed_from_step: u64,
    world_size: usize,
}

fn train(
    args: &TrainerArgs,
    variable: &dyn Fn(&str) -> Option<String>,
    patience: Patience,
    out: &mut dyn Write,
) -> Result<()> {
    let place = Place::read(variable)?;
    let recipe = Recipe {
        seed: args.seed,
        hidden: args.hidden as usize,
        batch: args.batch as usize,
        rate: args.lr,
    };
    ensure!(
        recipe.batch >= place.world,
        "--batch {} is less than one image for each of the {} ranks",
        recipe.batch,
        place.world
    );
    let digits = Digits::load()?;
    let shape = Shape::new(recipe.hidden);
    let (start, ring) = begin(args, &place, &recipe, shape, patience)?;
    ensure!(
        start.step <= args.steps,
        "the checkpoint was written after step {}, later than the last step {} of this training",
        start.step,
        args.steps
    );
    let resumed_from_step = start.step;
    if let Some(path) = place.resume_from.as_ref().filter(|_| place.rank == 0) {
        say(
            out,
            &format!("resumed from step {resumed_from_step} ({})", path.display()),
        )?;
    }
    let mut trainer = Trainer {
        args,
        place: &place,
        recipe: &recipe,
        digits: &digits,
        network: Network::new(shape),
        batches: Batches::new(recipe.seed, digits.train.len(), recipe.batch),
        ring,
        progress: start,
        // One number more than parameters: the loss travels with the gradient.
        gradient: vec![0.0; shape.parameters() + 1],
    };
    while trainer.progress.step < args.steps {
        trainer.step(out)?;
    }
    if place.rank == 0 {
        let parameters = &trainer.progress.parameters;
        let outcome = Outcome {
            accuracy: trainer.network.accuracy(parameters, &digits.held_out),
            steps: args.steps,
            params_digest: digest(parameters),
            resumed_from_step,
            world_size: place.world,
        };
        say(out, &format!("result {}", serde_json::to_string(&outcome)?))?;
    }
    Ok(())
}

/// Where this training starts, and the ring if there is more than one rank. Rank 0 decides: the others may not
/// hold the checkpoint.
fn begin(
    args: &TrainerArgs,
    place: &Place,
    recipe: &Recipe,
    shape: Shape,
    patience: Patience,
) -> Result<(Progress, Option<Ring>)> {
    let load_or_new = || match &place.resume_from {
        Some(path) => checkpoint::load(path, recipe, shape.parameters()),
        None => Ok(Progress {
            step: 0,
            parameters: shape.initial(recipe.seed),
            momentum: vec![0.0; shape.parameters()],
        }),
    };
    let Some(master) = &place.master else {
        return Ok((load_or_new()?, None));
    };
    let party = Party {
        rank: place.rank,
        world: place.world,
        master,
        terms: Terms {
            recipe: recipe.clone(),
            steps: args.steps,
        },
        patience,
    };
    if place.rank == 0 {
        let start = load_or_new()?;
        let ring = party.lead(&start)?;
        Ok((start, Some(ring)))
    } else {
        let (start, ring) = party.follow(shape.parameters())?;
        Ok((start, Some(ring)))
    }
}

/// One rank in the middle of its training.
struct Trainer<'a> {
    args: &'a TrainerArgs,
    place: &'a Place,
    recipe: &'a Recipe,
    digits: &'a Digits,
    network: Network,
    batches: Batches,
    ring: Option<Ring>,
    progress: Progress,
    gradient: Vec<f32>,
}

impl Trainer<'_> {
    fn step(&mut self, out: &mut dyn Write) -> Result<()> {
        let began = Instant::now();
        let number = self.progress.step + 1;
        let batch = self.batches.of_step(self.progress.step);
        let own = &batch[share(batch.len(), self.place.rank, self.place.world)];
        self.gradient.fill(0.0);
        let (loss, gradient) = self
            .gradient
            .split_last_mut()
            .expect("it has one number more than parameters");
        *loss =
            self.network
                .add_gradient(&self.progress.parameters, &self.digits.train, own, gradient)
                as f32;
        if let Some(ring) = &mut self.ring {
            ring.all_reduce(&mut self.gradient)
                .with_context(|| format!("cannot finish step {number}"))?;
        }
        let (loss, gradient) = self
            .gradient
            .split_last()
            .expect("it has one number more than parameters");
        let Progress {
            step,
            parameters,
            momentum,
        } = &mut self.progress;
        descend(
            parameters,
            momentum,
            gradient,
            self.recipe.batch,
            self.recipe.rate,
        );
        *step = number;
        thread::sleep(Duration::from_millis(self.args.min_step_ms).saturating_sub(began.elapsed()));
        self.report(*loss / self.recipe.batch as f32, out)
    }

    /// After a step: a line and a checkpoint, when they are due.
    fn report(&self, loss: f32, out: &mut dyn Write) -> Result<()> {
        let (step, steps) = (self.progress.step, self.args.steps);
        let due = |every: u64| step.is_multiple_of(every) || step == steps;
        if self.place.rank == 0 && due(self.args.log_every) {
            say(out, &format!("step {step}/{steps} loss {loss:.4}"))?;
        }
        let dir: Option<&Path> = self.place.checkpoint_dir.as_deref();
        if let Some(dir) =
            dir.filter(|_| self.args.checkpoint_every > 0 && due(self.args.checkpoint_every))
        {
            checkpoint::save(dir, self.recipe, &self.progress)?;
            say(out, &format!("checkpoint step {step}"))?;
        }
        Ok(())
    }
}

/// One line, at once: whoever follows the log sees it when it happens.
fn say(out: &mut dyn Write, line: &str) -> Result<()> {
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("cannot write to the standard output")
}

fn digest(parameters: &[f32]) -> String {
    let mut hasher = blake3::Hasher::new();
    for parameter in parameters {
        hasher.update(&parameter.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
