//! Chats and members.

use tonic::{Request, Response};

use super::{Answer, ChatApi, chat_id, failed, invalid};
use crate::converter::{chat, chat_role, chat_with_members, page_token, parse_page_token};
use crate::model::{UserId, limits};
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
        let created = self.options.service.create_chat(&caller, create).await.map_err(failed)?;
        Ok(Response::new(pb::CreateChatResponse { chat: Some(chat_with_members(&created)) }))
    }

    pub(super) async fn get(&self, request: Request<pb::GetChatRequest>) -> Answer<pb::GetChatResponse> {
        let (caller, request) = self.open(request)?;
        let found = self.options.service.get_chat(&caller, chat_id(&request.chat_id)?).await.map_err(failed)?;
        Ok(Response::new(pb::GetChatResponse { chat: Some(chat_with_members(&found)) }))
    }

    pub(super) async fn list(&self, request: Request<pb::ListChatsRequest>) -> Answer<pb::ListChatsResponse> {
        let (caller, request) = self.open(request)?;
        let before = match request.page_token.as_str() {
            "" => None,
            token => Some(parse_page_token(token).ok_or_else(|| invalid("page_token", "is not a token of an earlier page"))?),
        };
        let page = self.options.service.list_chats(&caller, before, limits::page_size(request.page_size)).await.map_err(failed)?;
        Ok(Response::new(pb::ListChatsResponse {
            chats: page.chats.iter().map(chat).collect(),
            next_page_token: page.next.map(page_token).unwrap_or_default(),
        }))
    }

    pub(super) async fn delete(&self, request: Request<pb::DeleteChatRequest>) -> Answer<pb::DeleteChatResponse> {
        let (caller, request) = self.open(request)?;
        self.ensure_serving()?;
        self.options.service.delete_chat(&caller, chat_id(&request.chat_id)?).await.map_err(failed)?;
        Ok(Response::new(pb::DeleteChatResponse {}))
    }

    pub(super) async fn add(&self, request: Request<pb::AddMembersRequest>) -> Answer<pb::AddMembersResponse> {
        let (caller, request) = self.open(request)?;
        self.ensure_serving()?;
        let members = request.members.into_iter().filter_map(|member| Some((UserId::new(member.user_id), chat_role(member.role)?)));
        let changed = self.options.service.add_members(&caller, chat_id(&request.chat_id)?, members.collect()).await.map_err(failed)?;
        Ok(Response::new(pb::AddMembersResponse { chat: Some(chat_with_members(&changed)) }))
    }

    pub(super) async fn remove(&self, request: Request<pb::RemoveMemberRequest>) -> Answer<pb::RemoveMemberResponse> {
        let (caller, request) = self.open(request)?;
        self.ensure_serving()?;
        let user_id = UserId::new(request.user_id);
        self.options.service.remove_member(&caller, chat_id(&request.chat_id)?, user_id).await.map_err(failed)?;
        Ok(Response::new(pb::RemoveMemberResponse {}))
    }
}
