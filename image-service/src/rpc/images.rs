//! The service Images, which is not part of the CRI: names of images, and images as archives.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::time::Duration;

use crisp_proto::crisp::v1::images_server::Images;
use crisp_proto::crisp::v1::{
    CheckLoginReply, CheckLoginRequest, ImportImageReply, ImportImageRequest, LoadImagesReply,
    LoadImagesRequest, LoadedImage, SaveImagesReply, SaveImagesRequest, TagImageReply, TagImageRequest,
};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::error::Elapsed;
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{error, pull_image};
use crate::ImageService;
use crate::archive::Changes;
use crate::reference::Reference;
use crate::service::MAX_ARCHIVES;

/// Bytes of one piece.
const PIECE: usize = 256 << 10;
/// Time limit for the client to receive or send a piece; it may be making the archive.
const CLIENT: Duration = Duration::from_secs(600);
/// Pieces that wait for the client.
const AHEAD: usize = 4;

type Replies = Pin<Box<dyn Stream<Item = Result<SaveImagesReply, Status>> + Send>>;

#[tonic::async_trait]
impl Images for ImageService {
    type SaveStream = Replies;

    async fn tag(&self, request: Request<TagImageRequest>) -> Result<Response<TagImageReply>, Status> {
        let TagImageRequest { image, tag } = request.into_inner();
        let tag = tag_of(&tag)?;
        let id = self.find(&image).map_err(|e| error::of_find(&e))?.id.clone();
        let store = self.store().clone();
        let tagged = blocking(move || store.tag(&id, &tag)).await?;
        tagged.map_err(|e| error::of_store(&e))?;
        Ok(Response::new(TagImageReply {}))
    }

    async fn save(&self, request: Request<SaveImagesRequest>) -> Result<Response<Replies>, Status> {
        let images = request.into_inner().images;
        for image in &images {
            self.find(image).map_err(|e| error::of_find(&e))?;
        }
        let permit = self.archive_permit()?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        let store = self.store().clone();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut pieces = Pieces { sender, handle: Handle::current(), piece: Vec::new() };
            if let Err(error) = store.save(&images, &mut pieces) {
                // If the client does not receive this either, it is gone.
                let _ = pieces.sender.blocking_send(Err(error::of_archive(&error)));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn load(
        &self,
        request: Request<Streaming<LoadImagesRequest>>,
    ) -> Result<Response<LoadImagesReply>, Status> {
        let archive = Archive::new(request.into_inner(), |piece: LoadImagesRequest| piece.data);
        let (store, permit) = (self.store().clone(), self.archive_permit()?);
        let loaded = blocking(move || (store.load(archive), permit).0).await?;
        let loaded = loaded.map_err(|e| error::of_archive(&e))?;
        let image = |image: &crate::store::Image| LoadedImage {
            id: image.id.to_string(),
            tags: image.repo_tags.clone(),
        };
        Ok(Response::new(LoadImagesReply { images: loaded.iter().map(|one| image(one)).collect() }))
    }

    async fn check_login(
        &self,
        request: Request<CheckLoginRequest>,
    ) -> Result<Response<CheckLoginReply>, Status> {
        let CheckLoginRequest { registry, auth } = request.into_inner();
        let auth = auth.map(pull_image::auth).unwrap_or_default();
        ImageService::check_login(self, &registry, &auth).await.map_err(|e| error::of_login(&e))?;
        Ok(Response::new(CheckLoginReply {}))
    }

    async fn import(
        &self,
        request: Request<Streaming<ImportImageRequest>>,
    ) -> Result<Response<ImportImageReply>, Status> {
        let mut pieces = request.into_inner();
        let first =
            pieces.message().await?.ok_or_else(|| Status::invalid_argument("the archive is empty"))?;
        let tag = if first.tag.is_empty() { None } else { Some(tag_of(&first.tag)?) };
        let changes = Changes { instructions: first.changes, author: String::new(), comment: first.comment };
        let mut archive = Archive::new(pieces, |piece: ImportImageRequest| piece.data);
        archive.piece = first.data;
        let (store, permit) = (self.store().clone(), self.archive_permit()?);
        let imported = blocking(move || (store.import(archive, tag, &changes), permit).0).await?;
        let image = imported.map_err(|e| error::of_archive(&e))?;
        Ok(Response::new(ImportImageReply { id: image.id.to_string() }))
    }
}

impl ImageService {
    /// For an archive of images: each has a thread, and waits for its client.
    fn archive_permit(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.archives.clone().try_acquire_owned().map_err(|_| {
            let most = MAX_ARCHIVES;
            Status::resource_exhausted(format!(
                "{most} images are saved, loaded or imported already: wait for one to end"
            ))
        })
    }
}

/// A valid name for an image.
fn tag_of(text: &str) -> Result<Reference, Status> {
    let reference = Reference::parse(text).map_err(|e| Status::invalid_argument(e.to_string()))?;
    if reference.repo_tag().is_none() {
        return Err(Status::invalid_argument(format!(
            "{text:?} has a digest, which a registry gives: expected NAME:TAG"
        )));
    }
    Ok(reference)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Status::unavailable("the server is shutting down"))
}

/// Collects an archive into pieces for the client.
struct Pieces {
    sender: mpsc::Sender<Result<SaveImagesReply, Status>>,
    handle: Handle,
    piece: Vec<u8>,
}

fn timed_out(_: Elapsed) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client neither sends nor takes anything")
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let data = std::mem::take(&mut self.piece);
        if data.is_empty() {
            return Ok(());
        }
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone");
        let send = self.sender.send(Ok(SaveImagesReply { data }));
        let send = async { tokio::time::timeout(CLIENT, send).await };
        self.handle.block_on(send).map_err(timed_out)?.map_err(gone)
    }
}

/// An archive that arrives in pieces, read on a thread that may block.
struct Archive<T> {
    pieces: Streaming<T>,
    data: fn(T) -> Vec<u8>,
    handle: Handle,
    piece: Vec<u8>,
    taken: usize,
}

impl<T> Archive<T> {
    fn new(pieces: Streaming<T>, data: fn(T) -> Vec<u8>) -> Self {
        Self { pieces, data, handle: Handle::current(), piece: Vec::new(), taken: 0 }
    }
}

impl<T> Read for Archive<T> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.piece.len() {
            let pieces = &mut self.pieces;
            let next = async { tokio::time::timeout(CLIENT, pieces.message()).await };
            let next = self.handle.block_on(next).map_err(timed_out)?.map_err(io::Error::other)?;
            let Some(next) = next else { return Ok(0) };
            (self.piece, self.taken) = ((self.data)(next), 0);
        }
        let length = into.len().min(self.piece.len() - self.taken);
        into[..length].copy_from_slice(&self.piece[self.taken..][..length]);
        self.taken += length;
        Ok(length)
    }
}
