//! Chats and members.

use tonic::{Request, Response};
use tracing::Instrument;

use super::{Answer, ChatApi, chat_id, failed, invalid};
use crate::converter::{chat, chat_role, chat_with_members, page_token, parse_page_token};
use crate::model::{UserId, limits};
use crate::observe::trace::child_span;
use crate::pb::chat::v1 as pb;
use crate::service::CreateChat;

impl ChatApi {
    pub(super) async fn create(&self, request: Request<pb::CreateChatRequest>) -> Answer<pb::CreateChatResponse> {
        let (caller, request) = self.open(request)?;
        self.ensure_serving()?;
        let create = CreateChat {
            title: request.title,
            member_ids: request.member_ids.into_iter().map(UserId::new).collect(),
            request_id: Some(request.request_id).filter(|id| !id.is_empty()),
        };
        let created =
            self.options.service.create_chat(&caller, create).instrument(child_span!("service.create_chat")).await.map_err(failed)?;
        Ok(Response::new(pb::CreateChatResponse { chat: Some(chat_with_members(&created)) }))
    }

    pub(super) async fn get(&self, request: Request<pb::GetChatRequest>) -> Answer<pb::GetChatResponse> {
        let (caller, request) = self.open(request)?;
        let get = self.options.service.get_chat(&caller, chat_id(&request.chat_id)?);
        let found = get.instrument(child_span!("service.get_chat")).await.map_err(failed)?;
        Ok(Response::new(pb::GetChatResponse { chat: Some(chat_with_members(&found)) }))
    }

    pub(super) async fn list(&self, request: Request<pb::ListChatsRequest>) -> Answer<pb::ListChatsResponse> {
        let (caller, request) = self.open(request)?;
        let before = match request.page_token.as_str() {
            "" => None,
            token => Some(parse_page_token(token).ok_or_else(|| invalid("page_token", "is not a token of an earlier page"))?),
        };
        let list = self.options.service.list_chats(&caller, before, limits::page_size(request.page_size));
        let page = list.instrument(child_span!("service.list_chats")).await.map_err(failed)?;
        Ok(Response::new(pb::ListChatsResponse {
            chats: page.chats.iter().map(chat).collect(),
            next_page_token: page.next.map(page_token).unwrap_or_default(),
        }))
    }

    pub(super) async fn delete(&self, request: Request<pb::DeleteChatRequest>) -> Answer<pb::DeleteChatResponse> {
        let (caller, request) = self.open(request)?;
        self.ensure_serving()?;
        let delete = self.options.service.delete_chat(&caller, chat_id(&request.chat_id)?);
        delete.instrument(child_span!("service.delete_chat")).await.map_err(failed)?;
        Ok(Response::new(pb::DeleteChatResponse {}))
    }

    pub(super) async fn add(&self, request: Request<pb::AddMembersRequest>) -> Answer<pb::AddMembersResponse> {
        let (caller, request) = self.open(request)?;
        self.ensure_serving()?;
        let members = request.members.into_iter().filter_map(|member| Some((UserId::new(member.user_id), chat_role(member.role)?)));
        let add = self.options.service.add_members(&caller, chat_id(&request.chat_id)?, members.collect());
        let changed = add.instrument(child_span!("service.add_members")).await.map_err(failed)?;
        Ok(Response::new(pb::AddMembersResponse { chat: Some(chat_with_members(&changed)) }))
    }

    pub(super) async fn remove(&self, request: Request<pb::RemoveMemberRequest>) -> Answer<pb::RemoveMemberResponse> {
        let (caller, request) = self.open(request)?;
        self.ensure_serving()?;
        let user_id = UserId::new(request.user_id);
        let remove = self.options.service.remove_member(&caller, chat_id(&request.chat_id)?, user_id);
        remove.instrument(child_span!("service.remove_member")).await.map_err(failed)?;
        Ok(Response::new(pb::RemoveMemberResponse {}))
    }
}
