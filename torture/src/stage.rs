//! Everything of one cycle that can be broken, and the doing of each fault.

use std::time::{Duration, Instant};

use dbstreamd_throwaway::ShutdownMode;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::consumers::{Conduct, Consumer};
use crate::daemon::{Daemon, Started};
use crate::disk::Disk;
use crate::error::TortureError;
use crate::faults::{Episode, Fault};
use crate::oracle::Violations;
use crate::power;
use crate::proxy::Proxy;
use crate::report::{Account, Recovery};
use crate::seed;
use crate::server::{Server, Slot, WAL_SENDER_TIMEOUT};
use crate::shim::{Shim, Word};
use dbstreamd_client::{Stream, StreamState};

/// A stop takes well under a second when nobody holds it up. PostgreSQL's own walsender can spin at a shutdown, on a record
/// that a terminated backend never finished, until `WAL_SENDER_TIMEOUT`; a client that withholds its confirmation would hold
/// the stop up for ever, and is caught by this.
const FAST_STOP_MAX: Duration = Duration::from_secs(WAL_SENDER_TIMEOUT.as_secs() + 6);
/// One stop of the server in so many is seen through something that accepts connections and then resets them.
const BALANCER_ONE_IN: u32 = 8;
/// A stream comes back within this; its own longest pause between attempts is 15 s.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// After a lie the daemon connects, sees the slot, and says what it lost.
const NOTICE_MAX: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_millis(25);

/// One cycle's parts.
pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) daemon: Daemon,
    pub(crate) proxy: Proxy,
    pub(crate) shim: Shim,
    pub(crate) disk: Disk,
    /// Always on, named, slow.
    pub(crate) consumers: Vec<Consumer>,
    pub(crate) violations: Violations,
    pub(crate) account: Account,
    /// Faults whose recovery nobody has seen yet.
    pub(crate) pending: Vec<Fault>,
    /// After a disk that refused: then the daemon is restarted.
    pub(crate) recover_within: Duration,
    /// Set when a lying fsync cost confirmed changes: the daemon noticed, and the stream cannot go on.
    pub(crate) severed: bool,
    /// Set when fsync lied: what consumers saw may be lost.
    pub(crate) lied: bool,
}

impl Stage {
    /// Does one fault, from its beginning to its end.
    pub(crate) async fn perform(&mut self, episode: &Episode) -> Result<(), TortureError> {
        let mut random = seed::generator(episode.dice, "episode");
        self.look_alive().await?;
        self.account.episode(episode.fault);
        let mut restarted = false;
        match episode.fault {
            Fault::Kill => self.kill(episode.hold).await?,
            Fault::KillBurst => self.kill_burst(episode.hold, &mut random).await?,
            Fault::Term => self.terminate(episode.hold).await?,
            Fault::ServerCrash => self.stop_server(ShutdownMode::Immediate, episode.hold, &mut random).await?,
            Fault::ServerStop => self.stop_server(ShutdownMode::Fast, episode.hold, &mut random).await?,
            Fault::Walsender => drop(self.server.terminate_walsender().await?),
            Fault::Cut => {
                self.proxy.cut();
                tokio::time::sleep(episode.hold).await;
            }
            Fault::Stall => self.network(Proxy::stall, episode.hold).await,
            Fault::Chop => {
                let piece_max = 1 << random.random_range(0..8);
                self.network(|proxy| proxy.chop(piece_max), episode.hold).await;
            }
            Fault::BlackHole => self.network(Proxy::swallow, episode.hold).await,
            Fault::DiskFull => restarted = self.fill_disk(episode.hold, &mut random).await?,
            Fault::SlowDisk => {
                let delay_ms = if random.random_bool(0.5) {
                    random.random_range(20..100)
                } else {
                    random.random_range(100..1_500)
                };
                self.with_shim(Word::DelaySyncMs, delay_ms, episode.hold).await?;
            }
            Fault::FailingFsync => {
                self.shim.set(Word::FailSync, 1)?;
                tokio::time::sleep(episode.hold).await;
                self.feel(Fault::FailingFsync).await;
                self.shim.set(Word::FailSync, 0)?;
            }
            Fault::PowerCut => self.cut_power(episode.hold, &mut random).await?,
            Fault::LyingFsync => self.lie(episode.hold, &mut random).await?,
            Fault::DyingConsumer => self.consumer(1, Conduct::Dead, episode.hold).await,
            Fault::SlowConsumer => self.consumer(2, Conduct::Still, episode.hold).await,
        }
        if !restarted {
            self.pending.push(episode.fault);
        }
        let disk = matches!(episode.fault, Fault::DiskFull | Fault::FailingFsync | Fault::SlowDisk);
        // What stops the log for good must not be hidden by the next restart.
        if (disk || episode.wait) && !self.severed {
            self.await_recovery().await?;
        }
        Ok(())
    }

    /// Ends every fault and sees to it that everything runs.
    pub(crate) async fn mend(&mut self) -> Result<(), TortureError> {
        self.proxy.clear();
        self.shim.clear()?;
        self.disk.drain()?;
        self.server.start().await?;
        self.look_alive().await?;
        self.await_recovery().await
    }

    /// A daemon that ended by itself is a violation; it is started again.
    async fn look_alive(&mut self) -> Result<(), TortureError> {
        if let Some(how) = self.daemon.ended()? {
            self.violations.add("daemon-stays-up", how);
        }
        if !self.daemon.runs() {
            self.restart(None).await?;
        }
        Ok(())
    }

    /// Waits until changes flow again; restarts the daemon when it does not by itself.
    async fn await_recovery(&mut self) -> Result<(), TortureError> {
        let disk = self.pending.iter().any(|fault| fault.may_pass_unfelt());
        let patience = if disk { self.recover_within } else { RECOVERY_MAX };
        let started = Instant::now();
        let (mut last, mut seen) = (None, None);
        while started.elapsed() < patience {
            last = self.daemon.stream().await;
            if last.as_ref().is_some_and(|stream| flows(stream, &mut seen)) {
                self.settle(Recovery::ByItself, started.elapsed());
                return Ok(());
            }
            if let Some(how) = self.daemon.ended()? {
                self.violations.add("daemon-stays-up", how);
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        let error = last.take().map_or_else(|| self.daemon.quote(), |stream| stream.error);
        if !disk {
            let seconds = patience.as_secs();
            self.violations.add("recovers", format!("not streaming {seconds} s after {:?}: {error}", self.pending));
        }
        self.settle(Recovery::Restarted, started.elapsed());
        self.daemon.kill().await?;
        self.restart(None).await?;
        let restarted = Instant::now();
        while restarted.elapsed() < RECOVERY_MAX {
            last = self.daemon.stream().await;
            if last.as_ref().is_some_and(|stream| flows(stream, &mut seen)) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        let error = last.map_or_else(|| self.daemon.quote(), |stream| stream.error);
        self.violations.add("recovers", format!("not streaming even after a restart: {error}"));
        Ok(())
    }

    fn settle(&mut self, recovery: Recovery, after: Duration) {
        for fault in std::mem::take(&mut self.pending) {
            // Another fault that was not waited for is no reason for the restart.
            if recovery == Recovery::ByItself || fault.may_pass_unfelt() {
                self.account.recovered(fault, recovery, after);
            }
        }
    }

    /// The slot while the daemon is down; none when the server does not answer either.
    async fn slot(&self) -> Option<Slot> {
        self.server.slot().await.ok().flatten()
    }

    /// Starts the daemon and compares what it holds with what the server was told to forget.
    async fn restart(&mut self, slot: Option<Slot>) -> Result<Option<Stream>, TortureError> {
        // Whether it would have come back without this, nobody knows.
        self.pending.clear();
        let slot = match slot {
            None => self.slot().await,
            known => known,
        };
        if let Started::Ended(how) = self.daemon.start().await? {
            self.violations.add("daemon-starts", how);
            // It might have been too early for something; a second failure ends the cycle.
            if let Started::Ended(how) = self.daemon.start().await? {
                return Err(TortureError::Failed(format!("the daemon does not start: {how}")));
            }
        }
        let stream = self.daemon.stream().await;
        if let (Some(slot), Some(stream)) = (slot, &stream)
            && !self.lied
        {
            self.account.comparisons += 1;
            if stream.confirmed_through_lsn < slot.confirmed {
                let (ours, theirs) = (stream.confirmed_through_lsn, slot.confirmed);
                let detail = format!("after a restart: the slot has {theirs:X}, the daemon says {ours:X}");
                self.violations.add("confirmed-covers-slot", detail);
            }
        }
        Ok(stream)
    }

    async fn kill(&mut self, down: Duration) -> Result<(), TortureError> {
        self.daemon.kill().await?;
        self.account.kills += 1;
        let slot = self.slot().await;
        tokio::time::sleep(down).await;
        self.restart(slot).await.map(drop)
    }

    async fn kill_burst(&mut self, longest: Duration, random: &mut SmallRng) -> Result<(), TortureError> {
        for _ in 0..random.random_range(2..=5) {
            self.daemon.kill().await?;
            self.account.kills += 1;
            self.daemon.spawn()?;
            let life_ms = random.random_range(0..=u64::try_from(longest.as_millis()).unwrap_or(0).max(20));
            tokio::time::sleep(Duration::from_millis(life_ms)).await;
        }
        self.kill(Duration::ZERO).await
    }

    async fn terminate(&mut self, down: Duration) -> Result<(), TortureError> {
        match self.daemon.terminate().await? {
            Some(status) if status.success() => {}
            Some(status) => self.violations.add("ends-cleanly", format!("SIGTERM: {status}; {}", self.daemon.quote())),
            None => self.violations.add("ends-cleanly", format!("SIGTERM: still running; {}", self.daemon.quote())),
        }
        tokio::time::sleep(down).await;
        self.restart(None).await.map(drop)
    }

    async fn stop_server(
        &mut self,
        mode: ShutdownMode,
        down: Duration,
        random: &mut SmallRng,
    ) -> Result<(), TortureError> {
        let started = Instant::now();
        self.server.stop(mode).await?;
        let took = started.elapsed();
        self.account.slowest_stop = self.account.slowest_stop.max(took);
        if took > FAST_STOP_MAX {
            let detail = format!("a stop ({mode:?}) took {:.1} s", took.as_secs_f64());
            self.violations.add("server-stops", detail);
        }
        // Mostly the port is closed while the server is down; sometimes something before it still accepts.
        if !random.random_ratio(1, BALANCER_ONE_IN) {
            self.proxy.close();
        }
        tokio::time::sleep(down).await;
        self.server.start().await?;
        self.proxy.clear();
        Ok(())
    }

    async fn network(&self, change: impl FnOnce(&Proxy), hold: Duration) {
        change(&self.proxy);
        tokio::time::sleep(hold).await;
        self.proxy.clear();
    }

    async fn with_shim(&self, word: Word, value: u64, hold: Duration) -> Result<(), TortureError> {
        self.shim.set(word, value)?;
        tokio::time::sleep(hold).await;
        self.shim.set(word, 0)
    }

    async fn consumer(&self, at: usize, conduct: Conduct, hold: Duration) {
        let Some(consumer) = self.consumers.get(at) else { return };
        consumer.tell(conduct);
        tokio::time::sleep(hold).await;
        consumer.tell(Conduct::Read);
    }

    /// Whether the daemon was restarted in it.
    async fn fill_disk(&mut self, hold: Duration, random: &mut SmallRng) -> Result<bool, TortureError> {
        // A real file system lets the log go on as long as it has room reserved; the library refuses at once.
        let simulated = random.random_bool(0.5) || !self.disk.can_be_filled();
        if simulated {
            self.shim.set(Word::Full, 1)?;
        } else {
            self.disk.fill()?;
        }
        tokio::time::sleep(hold).await;
        self.feel(Fault::DiskFull).await;
        if random.random_ratio(1, 3) {
            // A restart while the disk is full may be refused, as long as it works afterwards.
            self.daemon.kill().await?;
            self.account.kills += 1;
            let slot = self.slot().await;
            self.daemon.spawn()?;
            tokio::time::sleep(hold / 2).await;
            self.drain_disk()?;
            if self.daemon.ended()?.is_some() || matches!(self.daemon.wait_up().await?, Started::Ended(_)) {
                self.restart(slot).await?;
            }
            return Ok(true);
        }
        self.drain_disk()?;
        Ok(false)
    }

    /// Takes note of whether the daemon has met the fault: recovering from what was not felt proves nothing.
    async fn feel(&mut self, fault: Fault) {
        if self.daemon.stream().await.is_none_or(|stream| !streams(&stream)) {
            self.account.felt(fault);
        }
    }

    fn drain_disk(&self) -> Result<(), TortureError> {
        self.shim.set(Word::Full, 0)?;
        self.disk.drain()
    }

    async fn cut_power(&mut self, down: Duration, random: &mut SmallRng) -> Result<(), TortureError> {
        self.daemon.kill().await?;
        let slot = self.slot().await;
        let how = if random.random_bool(0.7) { power::Cut::Strict } else { power::Cut::Torn };
        let loss = power::cut(&self.shim, how, random)?;
        self.account.lost_bytes += loss.bytes;
        self.account.lost_names += loss.names;
        tokio::time::sleep(down).await;
        self.restart(slot).await.map(drop)
    }

    /// A disk that says it has what it has not, and then no power. What was confirmed is gone; the daemon cannot prevent
    /// that, and must not hide it.
    async fn lie(&mut self, hold: Duration, random: &mut SmallRng) -> Result<(), TortureError> {
        self.lied = true;
        let epoch = self.daemon.stream().await.map_or(1, |stream| stream.epoch);
        self.shim.set(Word::Lie, 1)?;
        tokio::time::sleep(hold).await;
        // What consumers see from here may never have been.
        self.consumers.iter().for_each(|consumer| consumer.tell(Conduct::Dead));
        self.daemon.kill().await?;
        self.shim.set(Word::Lie, 0)?;
        let slot = self.slot().await;
        let loss = power::cut(&self.shim, power::Cut::Strict, random)?;
        self.account.lost_bytes += loss.bytes;
        self.account.lost_names += loss.names;
        let stream = self.restart(slot).await?;
        let (Some(slot), Some(stream)) = (slot, stream) else { return Ok(()) };
        if stream.epoch == epoch && stream.confirmed_through_lsn >= slot.confirmed {
            return Ok(());
        }
        self.severed = true;
        let started = Instant::now();
        while started.elapsed() < NOTICE_MAX {
            let Some(stream) = self.daemon.stream().await else { continue };
            if stream.state() == StreamState::Failed && !stream.error.is_empty() || stream.epoch > epoch {
                self.account.noticed += 1;
                return Ok(());
            }
            if streams(&stream) {
                let detail =
                    format!("confirmed {:X} was lost, and the stream goes on in epoch {epoch}", slot.confirmed);
                self.violations.add("loss-noticed", detail);
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        self.violations.add("loss-noticed", format!("nothing was said within {} s", NOTICE_MAX.as_secs()));
        Ok(())
    }
}

/// Whether it streams and something new has become visible since this was first asked: the state alone may not know yet
/// that the connection is gone. Writers write until after the last recovery.
fn flows(stream: &Stream, seen: &mut Option<u64>) -> bool {
    let first = *seen.get_or_insert(stream.visible_offset);
    streams(stream) && stream.visible_offset > first
}

fn streams(stream: &Stream) -> bool {
    stream.state() == StreamState::Streaming
}
