//! Compiles the kernels with nvcc when the feature `cuda` is on.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// The kernels run on every GPU from the A100 on; the driver compiles them for the one it finds.
const MIN_ARCHITECTURE: &str = "80";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/cuda/kernels");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let nvcc = match env::var_os("CUDA_HOME") {
        Some(home) => PathBuf::from(home).join("bin/nvcc"),
        None => PathBuf::from("nvcc"),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("kernels.ptx");
    let built = Command::new(&nvcc)
        .args(["--ptx", "-std=c++17", "-O3"])
        .arg(format!("-arch=compute_{MIN_ARCHITECTURE}"))
        .arg("-o")
        .arg(&out)
        .arg("src/cuda/kernels/kernels.cu")
        .status();
    let reason = match built {
        Ok(status) if status.success() => return,
        Ok(_) => "it could not compile src/cuda/kernels/kernels.cu".to_owned(),
        Err(error) => error.to_string(),
    };
    println!(
        "cargo::error=the feature `cuda` needs the CUDA toolkit's compiler ({}): {reason}; set CUDA_HOME, or see docs/cuda.md",
        nvcc.display()
    );
}
