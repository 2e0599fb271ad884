//! ConnectChat: hands the stream to a session.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use tonic::{Request, Response, Status};

use super::{Answer, ChatApi};
use crate::converter::status::{self, Refused};
use crate::model::Identity;
use crate::observe::request::RequestContext;
use crate::pb::chat::v1 as pb;
use crate::service::Error;
use crate::transport::connection::Carrier;
use crate::transport::detached::{DetachedBody, MayDetach};
use crate::transport::session::{Session, outbox};
use crate::transport::stream_task::{self, Companion};

/// The generated trait wants a stream; the answer's real body goes by [`ConnectBody`], because the generated encoder would copy
/// each message for each stream.
pub type NoStream = futures_util::stream::Empty<Result<pb::ConnectChatResponse, Status>>;

/// In a response's extensions: the body that takes the place of the empty one. `routes` puts it there.
#[derive(Clone)]
pub struct ConnectBody(Arc<Mutex<Option<Body>>>);

impl ConnectBody {
    pub fn take(&self) -> Option<Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ChatApi {
    pub(super) fn connect(&self, request: Request<tonic::Streaming<pb::ConnectChatRequest>>) -> Answer<NoStream> {
        let (_, extensions, inbound) = request.into_parts();
        let identity = extensions.get::<Identity>().cloned().ok_or_else(|| status::refused(Refused::TokenMissing))?;
        // The stream goes with its connection, which goes with the server at the latest.
        let leaving = extensions.get::<Arc<Carrier>>().map_or(&self.options.draining, |carrier| &carrier.leaving);
        if leaving.is_cancelled() {
            return Err(status::of_error(&Error::GoingAway));
        }
        let (outbox, body) = outbox::outbox();
        let session = Session::new(Arc::clone(&self.options), leaving.clone(), identity, inbound, outbox).run();
        // It runs beside its call, and is the call's work all the same.
        let session: Companion = match extensions.get::<Arc<RequestContext>>() {
            Some(context) => Box::pin(Arc::clone(context).serve(session)),
            None => Box::pin(session),
        };
        let body = match stream_task::attach(session) {
            Ok(()) => Body::new(body),
            Err(session) => match extensions.get() {
                Some(MayDetach(cut)) => Body::new(DetachedBody::start(session, body, cut.clone())),
                None => return Err(status::refused(Refused::NeedsHttp2)),
            },
        };
        let mut response = Response::new(futures_util::stream::empty());
        response.extensions_mut().insert(ConnectBody(Arc::new(Mutex::new(Some(body)))));
        Ok(response)
    }
}
