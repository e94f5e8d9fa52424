//! A binary that can be a launcher and a keeper and nothing else: how a program embeds them, and what the tests of this crate start.

fn main() {
    match mlctl_agent::early_main(std::env::args_os()) {
        Some(code) => std::process::exit(code),
        None => {
            eprintln!("usage: small_processes keeper ATTEMPT_DIR | launcher --config FILE");
            std::process::exit(64);
        }
    }
}
