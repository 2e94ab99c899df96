//! `nyxc devices`.

use super::{Failure, write};
use crate::runtime::{DeviceKind, devices};
use crate::session::size;
use serde_json::json;
use std::process::ExitCode;

/// List the Vulkan devices here.
#[derive(clap::Args)]
#[command(after_help = "\
NYXC_MASK takes features from devices: a target's name or JSON file, or a list such as \
no-f16,no-dot,shared=16K,align=256.

Examples:
  nyxc devices --json | jq '.devices[0].target' > mine.json    a profile for --target
  NYXC_MASK=vulkan-min nyxc devices    as if they had only what every Vulkan device has")]
pub(super) struct Args {
    /// Print them as one JSON document, with their profiles
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let devices = devices()?;
    let text = if args.json {
        let list: Vec<_> = devices
            .iter()
            .map(
                |d| json!({"index": d.index, "name": d.name, "kind": format!("{:?}", d.kind).to_lowercase(), "driver": d.driver, "mask": d.mask, "target": d.target}),
            )
            .collect();
        format!("{:#}\n", json!({"devices": list}))
    } else if devices.is_empty() {
        "no Vulkan device of version 1.1 or later; programs run with --device cpu\n".to_owned()
    } else {
        let line = |d: &crate::runtime::DeviceInfo| {
            let memory = &d.target.memory;
            let mask = d.mask.as_ref().map_or(String::new(), |mask| format!(", masked by NYXC_MASK={mask}"));
            let kind = match d.kind {
                DeviceKind::Discrete => "discrete GPU",
                DeviceKind::Integrated => "integrated GPU",
                DeviceKind::Virtual => "virtual GPU",
                DeviceKind::Cpu => "computes on the CPU (--device vulkan, not auto)",
                DeviceKind::Other => "of no known kind",
            };
            let shared = if memory.unified { ", shared with the host" } else { "" };
            format!(
                "{}  {} ({})\n   Vulkan {}.{}, {kind}, {}{shared}{mask}\n",
                d.index,
                d.name,
                d.driver,
                d.target.vulkan[0],
                d.target.vulkan[1],
                size::show(memory.heap_bytes)
            )
        };
        devices.iter().map(line).collect()
    };
    write::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}
