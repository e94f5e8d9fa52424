//! Types, shares and MIG instances as people write and mistype them.
use super::super::{parse_json, parse_toml};
use super::*;

#[test]
fn types_have_a_name_and_perhaps_a_least_memory() {
    for (text, name, memory) in [
        ("H100", "h100", 0),
        ("A100:80GB", "a100", 80_000_000_000),
        ("A100:40GiB", "a100", 40 << 30),
        ("RTX 6000 Ada:49000MiB", "rtx 6000 ada", 49_000 << 20),
    ] {
        let kind: GpuKind = text.parse().expect(text);
        assert_eq!((kind.name.as_str(), kind.memory), (name, memory), "{text}");
    }
    for text in [
        "",
        ":80GB",
        " :1GB",
        "A100:",
        "A100:80",
        "A100:80gb",
        "A100:0GB",
        "A100:-1GB",
        "A100:1.5GB",
        "A100:80GB:1",
        "A100:99999999TB",
        "A100:18446744073709551615GB",
    ] {
        let error = text.parse::<GpuKind>().expect_err(text);
        assert!(error.contains("A100:80GB") && error.len() < 300, "{error}");
    }
}

#[test]
fn a_part_of_a_gpu_is_exact() {
    for (text, thousandths, canonical) in [
        ("0.5", 500, "0.5"),
        ("0.25", 250, "0.25"),
        ("0.250", 250, "0.25"),
        ("0.001", 1, "0.001"),
        ("0.999", 999, "0.999"),
        ("0.07", 70, "0.07"),
    ] {
        let share: Share = text.parse().expect(text);
        assert_eq!(
            (share.thousandths(), share.to_string().as_str()),
            (thousandths, canonical)
        );
    }
    for text in [
        "", "0", "0.", "0.0", "0.000", "0.0001", "0.3333", "1.0", "1.5", "-0.5", "+0.5", ".5",
        "0.5e0", "0,5", "NaN", "inf", "null",
    ] {
        let error = text.parse::<Share>().expect_err(text);
        assert!(error.contains("such as 0.5"), "{error}");
    }
}

fn spec(lines: &str) -> Result<JobSpec, SpecError> {
    parse_toml(&format!("command = ['a']\n{lines}"))
}

#[test]
fn a_share_is_one_device_of_which_it_takes_a_part() {
    for lines in [
        "gpus = 0.5",
        "gpus = '0.5'",
        "share = '0.5'",
        "share = 0.5",
        "gpus = 1\nshare = '0.50'",
    ] {
        let spec = spec(lines).expect(lines);
        assert_eq!(spec.gpus, 1, "{lines}");
        assert_eq!(spec.share.map(Share::thousandths), Some(500), "{lines}");
        let again = parse_json(&spec.canonical_json()).expect("canonical JSON parses");
        assert_eq!((again.hash(), &again), (spec.hash(), &spec), "{lines}");
    }
}

#[test]
fn instances_are_devices_one_for_each_rank() {
    let one = spec("mig = { count = 1, slices = 3 }").expect("good");
    assert_eq!((one.gpus, one.ranks_per_node()), (1, 1));
    let four = spec("ranks = 4\nmig = { count = 4, slices = 1 }").expect("good");
    assert_eq!(four.gpus, 4);
    for spec in [one, four] {
        let again = parse_json(&spec.canonical_json()).expect("canonical JSON parses");
        assert_eq!((again.hash(), &again), (spec.hash(), &spec));
    }
}

#[test]
fn senseless_parts_are_refused_with_what_to_write_instead() {
    for (lines, says) in [
        ("gpus = 1.5", "such as 0.5"),
        ("gpus = 1.0", "use a whole number of GPUs"),
        ("gpus = 0.0001", "0.001 to 0.999"),
        ("gpus = -0.5", "0.001 to 0.999"),
        ("gpus = 1e300", "0.001 to 0.999"),
        ("gpus = nan", "`gpus` is null"),
        ("gpus = inf", "`gpus` is null"),
        ("gpus = -1", "not negative"),
        ("gpus = '4'", "use a whole number of GPUs"),
        ("gpus = [1]", "whole number"),
        ("gpus = 0.5\nshare = '0.5'", "leave it out"),
        ("gpus = 2\nshare = '0.5'", "leave `gpus` out"),
        ("share = ''", "such as 0.5"),
        ("share = true", "such as 0.5"),
        ("gpus = 0.5\nnodes = 2", "one rank on one node"),
        ("gpus = 0.5\nnodes = '1..2'", "one rank on one node"),
        ("gpus = 0.5\nranks = 2", "one rank on one node"),
        (
            "gpus = 0.5\nmig = { count = 1, slices = 1 }",
            "use one of them",
        ),
        ("mig = 3", "needs `count` and `slices`"),
        ("mig = { count = 1 }", "needs `count` and `slices`"),
        (
            "mig = { count = -1, slices = 1 }",
            "needs `count` and `slices`",
        ),
        ("mig = { count = 0, slices = 1 }", "`mig.count` is 0"),
        ("mig = { count = 65, slices = 1 }", "use 1 to 64"),
        ("mig = { count = 1, slices = 0 }", "a GPU has 7"),
        ("mig = { count = 1, slices = 8 }", "a GPU has 7"),
        ("mig = { count = 1, slice = 1 }", "did you mean `slices`?"),
        (
            "gpus = 4\nmig = { count = 2, slices = 1 }\nranks = 2",
            "leave `gpus` out",
        ),
        ("mig = { count = 2, slices = 1 }", "set `ranks = 2`"),
        (
            "launcher = 'torchrun'\nmig = { count = 2, slices = 3 }",
            "NCCL does not run",
        ),
        (
            "launcher = 'python'\nnodes = 2\nmig = { count = 1, slices = 3 }",
            "NCCL does not run",
        ),
        ("gpus = 1\ngpu = ['A100:80']", "A100:80GB"),
        ("gpus = 1\ngpu = ['']", "name of 1 to 63 bytes"),
        ("gpus = 1\ngpu = 'A100'", "expected a sequence"),
    ] {
        let error = spec(lines).expect_err(lines).to_string();
        assert!(error.contains(says), "{lines}\n-> {error}");
        assert!(error.len() < 400, "{error}");
    }
}
