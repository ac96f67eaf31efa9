package gitlabsim

import (
	"crypto/md5"
	"encoding/hex"
	"maps"
	"strconv"
	"strings"
	"time"
)

// entities shows users, groups, projects and members as GitLab's API does to the caller (lib/api/entities).
type entities struct{ *call }

// apiTime is the form of times in the REST API.
func apiTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func nullableID(id int64) any {
	if id == 0 {
		return nil
	}
	return id
}

func avatar(_ string, u *User) string {
	sum := md5.Sum([]byte(strings.ToLower(u.Email)))
	return "https://www.gravatar.com/avatar/" + hex.EncodeToString(sum[:]) + "?s=80&d=identicon"
}

// basicUser is Entities::UserBasic.
func basicUser(base string, u *User) map[string]any {
	if u == nil {
		return nil
	}
	return map[string]any{
		"id": u.ID, "username": u.Username, "name": u.Name, "state": u.State, "locked": false,
		"public_email": "", "avatar_url": avatar(base, u), "web_url": base + "/" + u.Username,
	}
}

func isBot(u *User) bool { return u.Type != "HUMAN" && u.Type != "GHOST" && u.Type != "PLACEHOLDER" }

// fullUser is Entities::User; with private it is UserPublic, with admin also UserWithAdmin.
func (c entities) fullUser(u *User, private, admin bool) map[string]any {
	m := basicUser(c.s.url, u)
	add := func(in map[string]any) {
		maps.Copy(m, in)
	}
	add(map[string]any{
		"created_at": apiTime(u.CreatedAt), "bio": "", "location": "", "skype": "", "linkedin": "", "twitter": "", "discord": "",
		"website_url": "", "organization": "", "job_title": "", "pronouns": nil, "bot": isBot(u), "work_information": nil, "local_time": nil,
		"followers": 0, "following": 0, "is_followed": false,
	})
	if private {
		var signedIn any
		if t, ok := c.s.lastSignIn(u.ID); ok {
			signedIn = apiTime(t)
		}
		add(map[string]any{
			"last_sign_in_at": signedIn, "confirmed_at": apiTime(u.CreatedAt), "last_activity_on": nil, "email": u.Email,
			"theme_id": 3, "color_scheme_id": 1, "projects_limit": 100000, "current_sign_in_at": signedIn, "identities": []any{},
			"can_create_group": true, "can_create_project": true, "two_factor_enabled": false, "external": u.External,
			"private_profile": false, "commit_email": u.Email,
		})
	}
	if admin {
		add(map[string]any{
			"is_admin": u.Admin, "note": nil, "namespace_id": u.NamespaceID, "created_by": nil, "highest_role": nil, "email_reset_offered_at": nil,
			"current_sign_in_ip": nil, "last_sign_in_ip": nil, "sign_in_count": 0,
		})
	}
	return m
}

// listedGroup is an item of GET /groups: no shared_with_groups (https://docs.gitlab.com/api/groups/). archived is the group's own flag.
func (c entities) listedGroup(v *View, g *Group) map[string]any {
	branch := []map[string]any{{"access_level": Maintainer}}
	return map[string]any{
		"id": g.ID, "web_url": c.s.url + "/groups/" + v.FullPath(g), "name": g.Name, "path": g.Path, "description": "",
		"visibility": g.Visibility, "share_with_group_lock": g.ShareWithGroupLock, "require_two_factor_authentication": false,
		"two_factor_grace_period": 48, "project_creation_level": "developer", "auto_devops_enabled": nil, "subgroup_creation_level": "owner",
		"emails_disabled": false, "emails_enabled": true, "mentions_disabled": nil, "lfs_enabled": true, "math_rendering_limits_enabled": true,
		"lock_math_rendering_limits_enabled": false, "default_branch": nil, "default_branch_protection": 2,
		"default_branch_protection_defaults": map[string]any{"allowed_to_push": branch, "allow_force_push": false, "allowed_to_merge": branch},
		"avatar_url":                         nil, "request_access_enabled": true, "full_name": v.FullName(g), "full_path": v.FullPath(g),
		"created_at": apiTime(g.CreatedAt), "parent_id": nullableID(g.ParentID), "organization_id": 1, "shared_runners_setting": "enabled",
		"ldap_cn": nil, "ldap_access": nil, "marked_for_deletion_on": nullable(g.MarkedForDeletionOn), "wiki_access_level": "enabled",
		"repository_storage": "default", "file_template_project_id": nil, "ip_restriction_ranges": nil, "archived": g.SelfArchived,
	}
}

// links is shared_with_groups; groups that the caller may not see are left out.
func (c entities) links(v *View, links []GroupLink) []map[string]any {
	out := []map[string]any{}
	for _, l := range links {
		if g := v.Group(l.GroupID); g != nil && v.canReadGroup(c.user, g) {
			out = append(out, map[string]any{
				"group_id": g.ID, "group_name": g.Name, "group_full_path": v.FullPath(g),
				"group_access_level": l.Level, "expires_at": nullable(l.ExpiresAt),
			})
		}
	}
	return out
}

func (c entities) singleGroup(v *View, g *Group, withProjects bool) map[string]any {
	m := c.listedGroup(v, g)
	m["shared_with_groups"] = c.links(v, g.Links)
	m["prevent_sharing_groups_outside_hierarchy"] = false
	m["enabled_git_access_protocol"] = "all"
	m["membership_lock"] = false
	if c.admin() || c.user != nil && v.GroupLevel(g.ID, c.user.ID) == Owner {
		m["runners_token"] = nil
	}
	if withProjects {
		// Deprecated arrays, at most 100 each.
		own, shared := []map[string]any{}, []map[string]any{}
		for _, p := range v.ProjectsOf(g.ID) {
			if v.canReadProject(c.user, p) && len(own) < 100 {
				own = append(own, c.fullProject(v, p))
			}
		}
		_, ids := v.GroupsInvitedTo(g.ID)
		for _, id := range ids {
			if p := v.Project(id); v.canReadProject(c.user, p) && len(shared) < 100 {
				shared = append(shared, c.fullProject(v, p))
			}
		}
		m["projects"], m["shared_projects"] = own, shared
	}
	return m
}

// simpleProject is Entities::BasicProjectDetails (simple=true, and what anonymous callers get).
func (c entities) simpleProject(v *View, p *Project) map[string]any {
	path, web := v.ProjectPath(p), c.s.url
	host := strings.TrimPrefix(web, "https://")
	namespace, namespaceName := map[string]any{}, ""
	if g := v.GroupOf(p); g != nil {
		namespaceName = v.FullName(g)
		namespace = map[string]any{
			"id": g.ID, "name": g.Name, "path": g.Path, "kind": "group", "full_path": v.FullPath(g),
			"parent_id": nullableID(g.ParentID), "avatar_url": nil, "web_url": web + "/groups/" + v.FullPath(g),
		}
	} else if u := v.UserOfNamespace(p.NamespaceID); u != nil {
		namespaceName = u.Name
		namespace = map[string]any{
			"id": u.NamespaceID, "name": u.Name, "path": u.Username, "kind": "user", "full_path": u.Username,
			"parent_id": nil, "avatar_url": avatar(web, u), "web_url": web + "/" + u.Username,
		}
	}
	return map[string]any{
		"id": p.ID, "description": nil, "name": p.Name, "name_with_namespace": namespaceName + " / " + p.Name, "path": p.Path,
		"path_with_namespace": path, "created_at": apiTime(p.CreatedAt), "default_branch": p.DefaultBranch, "tag_list": []any{}, "topics": []any{},
		"ssh_url_to_repo": "git@" + host + ":" + path + ".git", "http_url_to_repo": web + "/" + path + ".git", "web_url": web + "/" + path,
		"readme_url": nil, "forks_count": 0, "avatar_url": nil, "star_count": 0, "last_activity_at": apiTime(p.CreatedAt),
		"visibility": p.Visibility, "namespace": namespace,
	}
}

// fullProject is Entities::Project. archived is the project's own flag.
func (c entities) fullProject(v *View, p *Project) map[string]any {
	m := c.simpleProject(v, p)
	creator := any(nil)
	if len(p.Members) > 0 {
		creator = nullableID(p.Members[0].UserID)
	}
	maps.Copy(m, map[string]any{
		"archived": p.SelfArchived, "empty_repo": len(p.Files) == 0, "marked_for_deletion_on": nullable(p.MarkedForDeletionOn),
		"marked_for_deletion_at": nullable(p.MarkedForDeletionOn), "issues_enabled": true, "merge_requests_enabled": true, "wiki_enabled": true,
		"jobs_enabled": true, "snippets_enabled": true, "shared_runners_enabled": true, "creator_id": creator, "open_issues_count": 0,
		"public_jobs": true, "shared_with_groups": c.links(v, p.Links), "request_access_enabled": true, "updated_at": apiTime(p.CreatedAt),
		"import_status": "none", "container_registry_enabled": false, "ci_pipeline_variables_minimum_override_role": "developer",
		"ci_id_token_sub_claim_components": []string{"project_path", "ref_type", "ref"}, "lfs_enabled": true,
	})
	if p.OwnerID != 0 {
		m["owner"] = basicUser(c.s.url, v.User(p.OwnerID))
	}
	return m
}

// member is Entities::Member: id is the USER's id, expires_at a date (https://docs.gitlab.com/api/project_members/).
func (c entities) member(v *View, m Member) map[string]any {
	out := basicUser(c.s.url, v.User(m.UserID))
	if out == nil {
		return nil
	}
	out["access_level"], out["created_at"], out["expires_at"] = m.Level, m.CreatedAt.UTC().Format("2006-01-02T15:04:05.000Z"), nullable(m.ExpiresAt)
	out["group_saml_identity"], out["member_role"] = nil, nil
	out["membership_state"] = "active"
	if by := v.User(m.CreatedByID); by != nil {
		out["created_by"] = basicUser(c.s.url, by)
	}
	if m.MemberRoleID != 0 {
		out["member_role"] = map[string]any{
			"id": m.MemberRoleID, "name": "Custom role " + strconv.FormatInt(m.MemberRoleID, 10),
			"base_access_level": m.Level, "description": "", "group_id": nil,
		}
	}
	return out
}
