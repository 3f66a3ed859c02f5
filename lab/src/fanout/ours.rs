//! dbstreamd with its subscribers.

use std::path::Path;
use std::sync::Arc;

use dbstreamd_throwaway::Cluster;

use super::follower::{Wanted, Watch};
use super::line::Line;
use super::measure::{Followers, Run, Watched, look_on, settled_rss};
use super::writer::{self, DATABASE, PUBLICATION, SLOT, Writer};
use super::{Crowd, WARM_UP_SECONDS};
use crate::daemon::{Daemon, Setup};
use crate::error::{LabError, io};
use crate::procfs;

/// One run with a fresh daemon.
///
/// # Errors
/// When a single subscriber did not get everything.
pub(super) fn once(cluster: &Cluster, crowd: &Crowd, binary: &Path) -> Result<Run, LabError> {
    let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
    writer::create_slot(cluster)?;
    let all = crowd.subscribers + crowd.slow;
    let mut daemon = Daemon::start(&Setup {
        binary,
        folder: folder.path(),
        url: &cluster.url(DATABASE),
        slot: SLOT,
        publication: PUBLICATION,
        config: &format!("[grpc]\nmax_subscribers = {all}\nmax_connections = {}\n", all + crowd.connections),
    })?;
    daemon.wait_streaming()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(io("the subscribers' runtime"))?;
    let run = runtime.block_on(measure(cluster, crowd, &mut daemon));
    // Calls that are still open would keep it waiting.
    runtime.shutdown_background();
    let run = run?;
    daemon.stop()?;
    writer::drop_slot(cluster)?;
    Ok(run)
}

async fn measure(cluster: &Cluster, crowd: &Crowd, daemon: &mut Daemon) -> Result<Run, LabError> {
    let warm_up = WARM_UP_SECONDS * crowd.rate;
    let mut writer = Writer::connect(cluster, crowd.filtered).await?;
    writer.write(warm_up, crowd.rate, |_| {}).await?;
    daemon.wait_visible(warm_up)?;
    let without = procfs::rss(daemon.pid())?;

    let events = crowd.rate * crowd.seconds;
    let watch = Arc::new(Watch::new(warm_up + 1, events, crowd.rate)?);
    let followers = follow(daemon.grpc(), crowd, &watch).await?;
    let mut lazy_ones = Vec::new();
    for number in crowd.subscribers..crowd.subscribers + crowd.slow {
        lazy_ones.push(Line::open(daemon.grpc(), std::iter::once((number, Wanted::everything())), &watch).await?);
    }
    let idle = settled_rss(daemon.pid()).await?;

    let server = cluster.server_pid().ok_or_else(|| LabError::Failed("the server is gone".into()))?;
    let watched = Watched { server: daemon.pid(), database: Some(server) };
    let counting = Arc::clone(&watch);
    let (rate, first) = (crowd.rate, warm_up);
    let write = move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("the writer's runtime"))?;
        runtime.block_on(writer.go_on(events, rate, |event| counting.committed(event - first)))
    };
    let run = look_on(crowd, &watch, watched, (without, idle), followers, write).await?;
    // Those that did not read have lost nothing.
    for lazy in lazy_ones {
        lazy.follow(&watch).await?;
    }
    Ok(run)
}

/// Opens all calls and lets each connection go on in a task of its own.
async fn follow(address: &str, crowd: &Crowd, watch: &Arc<Watch>) -> Result<Followers, LabError> {
    let mut tasks = Vec::with_capacity(crowd.connections);
    for connection in 0..crowd.connections {
        let wanted = |number| if crowd.filtered { Wanted::of(number) } else { Wanted::everything() };
        let line = Line::open(address, crowd.of(connection).map(|number| (number, wanted(number))), watch).await?;
        let watch = Arc::clone(watch);
        tasks.push(tokio::spawn(async move {
            if let Err(problem) = line.follow(&watch).await {
                *watch.problem.lock() = Some(problem);
            }
        }));
    }
    Ok(tasks)
}
