package gitlabsim

import "time"

// hookTime is the form of times in hook payloads.
func hookTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (c *changes) event(name string, created time.Time, payload map[string]any) map[string]any {
	payload["event_name"] = name
	payload["created_at"] = hookTime(created)
	payload["updated_at"] = hookTime(c.w.now())
	c.events = append(c.events, Event{Name: name, Payload: payload})
	return payload
}

func (c *changes) userEvent(name string, u *User) map[string]any {
	return c.event(name, u.CreatedAt, map[string]any{"name": u.Name, "email": u.Email, "user_id": u.ID, "username": u.Username})
}

func (c *changes) groupEvent(name string, g *Group) map[string]any {
	return c.event(name, g.CreatedAt, map[string]any{"name": g.Name, "path": g.Path, "group_id": g.ID})
}

func (c *changes) projectEvent(name string, p *Project) map[string]any {
	ownerName, ownerEmail := "", ""
	owners := []map[string]any{}
	if g := c.GroupOf(p); g != nil {
		ownerName = g.Name
		for _, m := range g.Members {
			if u := c.User(m.UserID); u != nil && m.Level == Owner {
				owners = append(owners, map[string]any{"name": u.Name, "email": u.Email})
			}
		}
	} else if u := c.UserOfNamespace(p.NamespaceID); u != nil {
		ownerName, ownerEmail = u.Name, u.Email
		owners = append(owners, map[string]any{"name": u.Name, "email": u.Email})
	}
	return c.event(name, p.CreatedAt, map[string]any{
		"name": p.Name, "path": p.Path, "path_with_namespace": c.ProjectPath(p), "project_id": p.ID,
		"project_namespace_id": p.NamespaceID, "owner_name": ownerName, "owner_email": ownerEmail,
		"owners": owners, "project_visibility": p.Visibility,
	})
}

// memberEvent records what happened ("add", "update", "remove") to one membership row.
func (c *changes) memberEvent(what string, kind SourceKind, id int64, m Member) {
	u := c.User(m.UserID)
	if u == nil {
		return
	}
	preposition := map[string]string{"add": "add_to", "update": "update_for", "remove": "remove_from"}[what]
	payload := map[string]any{"user_id": u.ID, "user_username": u.Username, "user_name": u.Name, "user_email": u.Email}
	if kind == KindGroup {
		g := c.Group(id)
		payload["group_id"], payload["group_name"], payload["group_path"] = g.ID, g.Name, g.Path
		payload["group_access"] = LevelName(m.Level)
		c.event("user_"+preposition+"_group", m.CreatedAt, payload)
		return
	}
	p := c.Project(id)
	payload["project_id"], payload["project_name"], payload["project_path"] = p.ID, p.Name, p.Path
	payload["project_path_with_namespace"], payload["project_visibility"] = c.ProjectPath(p), p.Visibility
	payload["access_level"] = LevelName(m.Level)
	c.event("user_"+preposition+"_team", m.CreatedAt, payload)
}
