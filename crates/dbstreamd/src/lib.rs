//! dbstreamd: PostgreSQL's changes in, a durable, replayable stream out.
//!
//! This crate is the outermost layer: configuration, wiring, gRPC, HTTP and the command line. Start reading at
//! [`serve`]; how a change travels below is in ARCHITECTURE.md.

pub mod cli;
pub mod config;
mod consumers;
mod control;
mod delivery;
mod demo;
mod directory;
mod epochs;
mod filter;
mod grpc;
mod holds;
mod http;
pub mod io;
pub mod json;
pub mod memory;
mod notices;
mod parking;
mod position;
mod process;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod processor;
pub mod proto;
mod schema_json;
mod schemas;
pub mod serve;
pub mod telemetry;
mod unreadable;
