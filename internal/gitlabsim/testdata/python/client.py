# Drives a GitLab with python-gitlab and prints what came back as one JSON object: step -> result.
# Arguments: the URL of the GitLab. The token is in GITLAB_TOKEN, the CA in REQUESTS_CA_BUNDLE.
import json
import os
import sys

import gitlab

url = sys.argv[1]
admin = gitlab.Gitlab(url, private_token=os.environ["GITLAB_TOKEN"], timeout=20, per_page=2)
results = {}


def step(name, call):
    """Stores what call returns, or the class, status and message of its error."""
    try:
        results[name] = call()
    except gitlab.GitlabError as e:
        results[name] = {"error": type(e).__name__, "status": e.response_code, "message": e.error_message}


def column(objects, *keys):
    rows = [[getattr(o, k) for k in keys] for o in objects]
    return [r[0] for r in rows] if len(keys) == 1 else rows


def everything(manager, *keys, **query):
    return column(manager.list(iterator=True, **query), *keys)


def headers(manager, **query):
    pages = manager.list(iterator=True, **query)
    return [pages.current_page, pages.prev_page, pages.next_page, pages.per_page, pages.total_pages, pages.total]


def column_of(links):
    return [[link["group_full_path"], link["group_access_level"], link["expires_at"]] for link in links]


# Who asks.
step("auth", lambda: (admin.auth(), admin.user.username)[1])
step("version", lambda: admin.version()[0])
step("token self", lambda: admin.http_get("/personal_access_tokens/self")["scopes"])
step("wrong token", lambda: gitlab.Gitlab(url, private_token="glpat-nope").auth())
step("oauth style", lambda: (lambda g: (g.auth(), g.user.id)[1])(gitlab.Gitlab(url, oauth_token=os.environ["GITLAB_TOKEN"])))

# Lists, by offset and by keyset.
step("users", lambda: everything(admin.users, "id", order_by="id", sort="asc"))
step("users keyset", lambda: everything(admin.users, "id", pagination="keyset", order_by="id", sort="asc"))
step("users by name", lambda: everything(admin.users, "id", username="ALICE"))
step("users blocked", lambda: everything(admin.users, "username", blocked=True))
step("projects", lambda: everything(admin.projects, "id", order_by="id", sort="asc"))
step("projects keyset", lambda: everything(admin.projects, "id", pagination="keyset", order_by="id", sort="asc"))
step("projects keyset desc", lambda: everything(admin.projects, "id", pagination="keyset", order_by="id"))
step("projects keyset by name", lambda: everything(admin.projects, "id", pagination="keyset", order_by="name"))
step("groups", lambda: everything(admin.groups, "full_path", order_by="id"))
step("groups keyset of a user", lambda: everything(admin.groups, "full_path", pagination="keyset", order_by="name"))
step("groups but two", lambda: everything(admin.groups, "id", order_by="id", skip_groups=[7, 8]))
step("group headers", lambda: headers(admin.groups, order_by="id"))
step("group headers of page 2", lambda: headers(admin.groups, order_by="id", page=2))
step("page past the end", lambda: column(admin.groups.list(page=9), "id"))
step("headers past the end", lambda: headers(admin.groups, page=9))
step("page 0", lambda: column(admin.groups.list(page=0), "id"))
step("per_page 0", lambda: column(admin.groups.list(per_page=0), "id"))

# One of each.
step("user", lambda: (lambda u: [u.username, u.state, u.is_admin])(admin.users.get(41)))
step("memberships", lambda: everything(admin.users.get(41).memberships, "source_id", "source_type", "access_level"))
step("user projects", lambda: everything(admin.users.get(41).projects, "path_with_namespace"))
step("no user", lambda: admin.users.get(999))
step("no group", lambda: admin.groups.get("acme/nothing"))
step("no project", lambda: admin.projects.get("acme/platform/nothing"))
acme, platform, open_group = admin.groups.get("acme"), admin.groups.get("acme/platform"), admin.groups.get("open")
project = admin.projects.get("acme/platform/api")
step("group", lambda: [platform.id, platform.full_path, platform.parent_id])
step("subgroups", lambda: everything(acme.subgroups, "full_path"))
step("descendants", lambda: everything(acme.descendant_groups, "full_path"))
step("group projects", lambda: everything(acme.projects, "id", include_subgroups=True))
step("project", lambda: [project.id, project.namespace["full_path"], project.default_branch])
step("project's groups", lambda: [g["group_full_path"] for g in project.shared_with_groups])
step("protected branches", lambda: everything(project.protectedbranches, "name"))

# Members.
for name, source in (("acme", acme), ("platform", platform), ("project", project)):
    step("members " + name, lambda: everything(source.members, "id", "access_level"))
    step("all members " + name, lambda: everything(source.members_all, "id", "access_level"))
step("member", lambda: (lambda m: [m.username, m.access_level, m.expires_at])(acme.members.get(41)))
step("no direct member", lambda: platform.members.get(41))
step("inherited member", lambda: platform.members_all.get(41).access_level)
step("add member", lambda: (lambda m: [m.id, m.access_level, m.expires_at])(
    platform.members.create({"user_id": 44, "access_level": gitlab.const.AccessLevel.DEVELOPER, "expires_at": "2030-01-31"})))
step("add member again", lambda: platform.members.create({"user_id": 44, "access_level": 30}))
step("add member without level", lambda: admin.http_post("/groups/8/members", post_data={"user_id": 44}))
step("add nobody", lambda: platform.members.create({"user_id": 999, "access_level": 30}))
step("add with a wrong level", lambda: project.members.create({"user_id": 1, "access_level": 33}))
step("no such group to add to", lambda: admin.http_post("/groups/999/members", post_data={"user_id": 1, "access_level": 30}))


def promote():
    member = platform.members.get(44)
    member.access_level = 40
    member.save()
    member = platform.members.get(44)
    return [member.access_level, member.expires_at]


step("promote", promote)
step("remove member", lambda: platform.members.delete(44))
step("remove member again", lambda: platform.members.delete(44))

# Shares.
step("share project", lambda: project.share(open_group.id, 30, expires_at="2030-02-28"))
step("shared project", lambda: column_of(admin.projects.get(20).shared_with_groups))
step("share project again", lambda: project.share(open_group.id, 30))
step("unshare project", lambda: project.unshare(open_group.id))
step("unshare project again", lambda: project.unshare(open_group.id))
step("share group", lambda: acme.share(open_group.id, 20))
step("shared group", lambda: column_of(admin.groups.get(7).shared_with_groups))
step("unshare group", lambda: acme.unshare(open_group.id))
step("share group again", lambda: admin.http_post("/groups/10/share", post_data={"group_id": 9, "group_access": 20}))
step("share with nothing", lambda: acme.share(999, 20))
step("share project with nothing", lambda: project.share(999, 20))

step("shared project later", lambda: column_of(admin.projects.get(20).shared_with_groups))

# CI/CD variables: one key in two scopes.
scope = lambda s: {"environment_scope": s}
step("create variable", lambda: project.variables.create({"key": "KUBE", "value": "any"}).attributes)
step("create scoped", lambda: project.variables.create(
    {"key": "KUBE", "value": "https://kube", "environment_scope": "prod/*", "protected": True, "masked": True, "variable_type": "file", "raw": True}).attributes)
step("create again", lambda: project.variables.create({"key": "KUBE", "value": "x", "environment_scope": "prod/*"}))
step("create unmaskable", lambda: project.variables.create({"key": "SHORT", "value": "x", "masked": True}))
step("create with a wrong key", lambda: project.variables.create({"key": "A-B", "value": "x"}))
step("get ambiguous", lambda: project.variables.get("KUBE"))
step("get scoped", lambda: project.variables.get("KUBE", filter=scope("prod/*")).value)
step("get unscoped", lambda: project.variables.get("KUBE", filter=scope("*")).value)
step("get other scope", lambda: project.variables.get("KUBE", filter=scope("prod")))
step("update ambiguous", lambda: project.variables.update("KUBE", {"value": "y"}))
step("update scoped", lambda: project.variables.update("KUBE", {"value": "https://kube2", "filter": scope("prod/*")})["value"])
step("variables", lambda: everything(project.variables, "key", "value", "environment_scope"))
step("delete ambiguous", lambda: project.variables.delete("KUBE"))
step("delete scoped", lambda: project.variables.delete("KUBE", filter=scope("prod/*")))
step("delete the other", lambda: project.variables.delete("KUBE"))
step("delete gone", lambda: project.variables.delete("KUBE"))

# Environments.
step("create environment", lambda: (lambda e: [e.name, e.state, e.tier])(project.environments.create({"name": "review/one"})))
step("create environment again", lambda: project.environments.create({"name": "review/one"}))
step("environments", lambda: everything(project.environments, "name"))
step("environments by search", lambda: everything(project.environments, "name", search="rev"))
step("environments by short search", lambda: everything(project.environments, "name", search="re"))


def end_environment():
    env = project.environments.list(name="review/one")[0]
    try:
        env.delete()
    except gitlab.GitlabDeleteError as e:
        refused = e.response_code
    env.stop()
    stopped = project.environments.get(env.id).state
    env.delete()
    return [refused, stopped, everything(project.environments, "name")]


step("end environment", end_environment)

# System hooks.
step("create hook", lambda: (lambda h: [h.url, h.enable_ssl_verification, h.push_events, hasattr(h, "token")])(
    admin.hooks.create({"url": "https://hooks.example.com/in", "token": "secret", "push_events": False})))
step("hooks", lambda: everything(admin.hooks, "url"))
step("hook", lambda: admin.hooks.get(admin.hooks.list()[0].id).url)
step("create bad hook", lambda: admin.hooks.create({"url": "ftp://example.com"}))
step("delete hook", lambda: admin.hooks.delete(admin.hooks.list()[0].id))
step("delete hook again", lambda: admin.hooks.delete(1))

# Users are blocked and unblocked.
step("block", lambda: [admin.users.get(44).block(), admin.users.get(44).state])
step("unblock", lambda: [admin.users.get(44).unblock(), admin.users.get(44).state])

# As somebody who is no administrator.
bob = gitlab.Gitlab(url, private_token="glpat-bob", timeout=20)
step("bob's variables", lambda: bob.projects.get(20).variables.list())
step("bob's hooks", lambda: bob.hooks.list())
step("bob's memberships", lambda: bob.users.get(41).memberships.list())

json.dump(results, sys.stdout, default=lambda o: o.attributes)
