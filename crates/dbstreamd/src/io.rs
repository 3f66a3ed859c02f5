//! Which of the kernel's interfaces sockets and files are waited for through, and why that one.
//!
//! io_uring was tried for both and kept for neither: docs/adr/0006-epoll.md. The setting says so to who asks for it, and its
//! name is there for the day the measurements say otherwise.

use dbstreamd_source::postgres::probe_io_uring;
use serde::Deserialize;

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Io {
    /// What is best here.
    #[default]
    Auto,
    /// epoll, and files through the page cache.
    Epoll,
    /// io_uring.
    IoUring,
}

/// What is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Choice {
    pub(crate) asked: Io,
    pub(crate) why: String,
}

impl Io {
    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Epoll => "epoll",
            Self::IoUring => "io_uring",
        }
    }

    /// What this machine and this program make of it.
    pub(crate) fn choose(self) -> Choice {
        let why = match (self, probe_io_uring()) {
            (Self::Epoll, _) => "it was asked for".to_owned(),
            (Self::Auto | Self::IoUring, Ok(())) => {
                "the kernel offers io_uring, which would save system calls where there are next to none".to_owned()
            }
            (Self::Auto | Self::IoUring, Err(error)) => format!("the kernel does not offer io_uring: {error}"),
        };
        Choice { asked: self, why }
    }
}

impl Choice {
    /// The interface's name.
    pub(crate) const fn chosen(&self) -> &'static str {
        Io::Epoll.name()
    }

    /// Says it in the log: as a warning to who asked for something else.
    pub(crate) fn report(&self) {
        let (io, why) = (self.chosen(), &self.why);
        if self.asked == Io::IoUring {
            tracing::warn!(io, why, "io = \"io_uring\" is not followed");
        } else {
            tracing::info!(io, why, "input and output");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_io_uring_is_told_why_it_is_not_used() {
        let choice = Io::IoUring.choose();
        assert_eq!((choice.chosen(), choice.asked), ("epoll", Io::IoUring));
        assert!(choice.why.contains("io_uring"), "{}", choice.why);
        assert_eq!(Io::Epoll.choose().why, "it was asked for");
    }
}
