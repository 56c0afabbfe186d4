//! The workers behind file sharing: what [`crate::proto::index::transfer`] asks for, done with [`crate::store`].

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::engine::Work;
use crate::proto::index::transfer::CHUNK_BYTES;
use crate::proto::index::transfer::fetch::{DiskFault, Done, Job};
use crate::proto::index::transfer::plan;
use crate::proto::index::transfer::serve::{Read, ReadDone, Unreadable};
use crate::store::partial_file::{PartialFile, PartialFileError, Stored};
use crate::store::shared_dir::{OpenFile, SharedDir, SharedFile};

/// Spare read buffers: as many chunks as the connections that are served at once may hold.
const SPARE_MAX: usize = 32;

/// Reads what is served.
pub struct Reader {
    dir: Arc<SharedDir>,
    /// The file that was read last: the next chunk is mostly of the same.
    last: Option<(Arc<SharedFile>, OpenFile)>,
    spare: Arc<Spare>,
}

/// Buffers that come back from the loop once they are sent.
#[derive(Default)]
struct Spare(Mutex<Vec<Vec<u8>>>);

/// The bytes of a chunk, on loan.
struct Loan {
    bytes: Vec<u8>,
    spare: Arc<Spare>,
}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut spare = self.spare.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl Reader {
    pub fn new(dir: Arc<SharedDir>) -> Reader {
        Reader {
            dir,
            last: None,
            spare: Arc::default(),
        }
    }

    fn read(&mut self, read: &Read<Arc<SharedFile>>) -> std::io::Result<Bytes> {
        let is_last = self.last.as_ref();
        if !is_last.is_some_and(|(file, _)| Arc::ptr_eq(file, &read.file)) {
            self.last = Some((read.file.clone(), self.dir.open_file(&read.file)?));
        }
        let mut spare = self.spare.0.lock().unwrap_or_else(PoisonError::into_inner);
        let spared = spare.pop();
        drop(spare);
        let mut bytes = spared.unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES as usize));
        if let Some((_, open)) = &self.last {
            open.read(read.offset, read.length, &mut bytes)?;
        }
        let spare = self.spare.clone();
        Ok(Bytes::from_owner(Loan { bytes, spare }))
    }
}

impl Work for Reader {
    type Job = Read<Arc<SharedFile>>;
    type Done = ReadDone;

    fn run(&mut self, jobs: &mut Vec<Self::Job>, done: &mut Vec<ReadDone>) {
        for job in jobs.drain(..) {
            let bytes = self.read(&job).map_err(|e| {
                log::info!("{:?} is not sent: {e}", job.file.path);
                self.last = None;
                Unreadable
            });
            done.push(ReadDone {
                conn: job.conn,
                bytes,
            });
        }
    }
}

/// Writes what is fetched.
pub struct Writer {
    part: PartialFile,
    name: String,
    overwrite: bool,
}

impl Writer {
    /// The file gets `name` when it is whole.
    pub fn new(part: PartialFile, name: String, overwrite: bool) -> Writer {
        Writer {
            part,
            name,
            overwrite,
        }
    }
}

impl Work for Writer {
    type Job = Job;
    type Done = Done;

    fn run(&mut self, jobs: &mut Vec<Job>, done: &mut Vec<Done>) {
        done.extend(jobs.drain(..).map(|job| match job {
            Job::Store {
                holder,
                range,
                bytes,
            } => {
                let result = self.part.store(range, &bytes).map(|stored| match stored {
                    Stored::New => plan::Stored::New,
                    Stored::Same => plan::Stored::Same,
                    Stored::Differs => plan::Stored::Differs,
                });
                Done::Stored {
                    holder,
                    range,
                    bytes,
                    result: result.map_err(fault),
                }
            }
            Job::Check => Done::Checked(self.part.check().map_err(fault)),
            Job::Finish => {
                let result = self.part.finish(&self.name, self.overwrite);
                Done::Finished(result.map_err(fault))
            }
        }));
    }
}

fn fault(e: PartialFileError) -> DiskFault {
    DiskFault(e.to_string())
}
