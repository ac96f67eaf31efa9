package gitlabsim

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vektah/gqlparser/v2/gqlerror"
)

// errNotAvailable is GitLab's answer to a list that the caller may not read although they see its owner.
const errNotAvailable = "The resource that you are attempting to access does not exist or you don't have permission to perform this action"

// gqlKeyTime is RFC 3339 with a fixed width, so that text order is time order.
const gqlKeyTime = "2006-01-02T15:04:05.000000000Z"

// graphQLWorld is the world as one caller sees it during one request.
type graphQLWorld struct {
	v       *View
	url     string
	version string
	user    *User // nil = anonymous
	above   map[int64]bool
}

func (w *graphQLWorld) admin() bool { return w.user != nil && w.user.Admin }

func (w *graphQLWorld) userID() int64 {
	if w.user == nil {
		return 0
	}
	return w.user.ID
}

func (w *graphQLWorld) open(visibility string) bool {
	return w.admin() || visibility == Public || visibility == Internal && w.user != nil && !w.user.External
}

func (w *graphQLWorld) seesProject(p *Project) bool {
	return w.open(p.Visibility) || w.v.ProjectLevel(p.ID, w.userID()) > NoAccess
}

// seesGroup tells whether the caller may read the group: also members of something below it see its name.
func (w *graphQLWorld) seesGroup(g *Group) bool {
	return w.open(g.Visibility) || w.v.GroupLevel(g.ID, w.userID()) > NoAccess || w.groupsAbove()[g.ID]
}

// groupsAbove are the groups that lie above something the caller is a member of, directly or through an invited group.
func (w *graphQLWorld) groupsAbove() map[int64]bool {
	if w.above != nil || w.user == nil {
		return w.above
	}
	w.above = map[int64]bool{}
	mark := func(groupID int64) {
		if g := w.v.Group(groupID); g != nil {
			for _, a := range w.v.SelfAndAncestors(g) {
				w.above[a.ID] = true
			}
		}
	}
	groups, projects := w.v.MembershipsOf(w.user.ID)
	for _, id := range groups {
		mark(id)
		// Invitations of descendants count as well: who is in a group is in its subgroups.
		for _, g := range append(w.v.Descendants(id), w.v.Group(id)) {
			into, projectsInto := w.v.GroupsInvitedTo(g.ID)
			for _, i := range into {
				mark(i)
			}
			projects = append(projects, projectsInto...)
		}
	}
	for _, id := range projects {
		if p := w.v.Project(id); p != nil && w.v.ProjectLevel(id, w.user.ID) > NoAccess {
			mark(p.NamespaceID)
		}
	}
	return w.above
}

func (w *graphQLWorld) groupMarked(g *Group) bool {
	return g != nil && slices.ContainsFunc(w.v.SelfAndAncestors(g), func(a *Group) bool { return a.MarkedForDeletionOn != "" })
}

func (w *graphQLWorld) projectMarked(p *Project) bool {
	return p.MarkedForDeletionOn != "" || w.groupMarked(w.v.GroupOf(p))
}

// gid is a global id.
func gid(kind string, id int64) string {
	return "gid://gitlab/" + kind + "/" + strconv.FormatInt(id, 10)
}

func parseGID(kind, s string) (int64, error) {
	rest, ok := strings.CutPrefix(s, "gid://gitlab/")
	i := strings.LastIndexByte(rest, '/')
	if !ok || i < 0 {
		return 0, gqlerror.Errorf("'%s' is not a valid GitLab Global ID", s)
	}
	id, err := strconv.ParseInt(rest[i+1:], 10, 64)
	if err != nil {
		return 0, gqlerror.Errorf("'%s' is not a valid GitLab Global ID", s)
	}
	if rest[:i] != kind {
		return 0, gqlerror.Errorf("'%s' does not represent an instance of %s", s, kind)
	}
	return id, nil
}

// parseGIDs reads the argument `ids`; the second result is nil when there is none.
func parseGIDs(kind string, args arguments) (func(int64) bool, error) {
	ids, given := args.list("ids")
	if !given {
		return func(int64) bool { return true }, nil
	}
	want := map[int64]bool{}
	for _, s := range ids {
		id, err := parseGID(kind, s)
		if err != nil {
			return nil, err
		}
		want[id] = true
	}
	return func(id int64) bool { return want[id] }, nil
}

// unsimulated refuses arguments that would change the answer and that the simulator does not implement.
func unsimulated(args arguments, names ...string) error {
	for _, n := range names {
		if v := args[n]; v != nil && v != false {
			return gqlerror.Errorf("the GitLab simulator does not implement the argument '%s'", n)
		}
	}
	return nil
}

func gqlContains(text, search string) bool {
	return strings.Contains(strings.ToLower(text), strings.ToLower(search))
}

// gqlSortKey tells for one word of a sort order how to make a key. Ids need no key: rows are ordered by id within a key.
func gqlSortKey(field, name, path string, created time.Time) (string, bool) {
	switch field {
	case "id":
		return "", true
	case "name":
		return strings.ToLower(name), true
	case "path":
		return strings.ToLower(path), true
	case "created", "created_at", "updated", "updated_at", "latest_activity", "activity":
		return created.UTC().Format(gqlKeyTime), true // the model has no update time
	default:
		return "", false
	}
}

func gqlParseSort(s string) (field string, by gqlOrder, err error) {
	s = strings.ToLower(s)
	if f, ok := strings.CutSuffix(s, "_asc"); ok {
		return f, gqlOrder{name: f}, nil
	}
	if f, ok := strings.CutSuffix(s, "_desc"); ok {
		return f, gqlOrder{name: f, desc: true}, nil
	}
	return "", gqlOrder{}, gqlerror.Errorf("the GitLab simulator does not implement the sort order '%s'", s)
}

func (w *graphQLWorld) groupPage(groups []*Group, sort string, args arguments) (any, error) {
	field, by, err := gqlParseSort(sort)
	if err != nil {
		return nil, err
	}
	rows := make([]gqlRow, 0, len(groups))
	for _, g := range groups {
		key, ok := gqlSortKey(field, g.Name, g.Path, g.CreatedAt)
		if !ok {
			return nil, gqlerror.Errorf("the GitLab simulator does not implement the sort order '%s'", sort)
		}
		rows = append(rows, gqlRow{key: key, id: g.ID, obj: gqlGroup{w, g}})
	}
	by.name = "groups:" + by.name
	return gqlPage("GroupConnection", rows, by, args)
}

func (w *graphQLWorld) projectPage(projects []*Project, sort string, args arguments) (any, error) {
	field, by, err := gqlParseSort(sort)
	if err != nil {
		return nil, err
	}
	rows := make([]gqlRow, 0, len(projects))
	for _, p := range projects {
		key, ok := gqlSortKey(field, p.Name, p.Path, p.CreatedAt)
		if !ok {
			return nil, gqlerror.Errorf("the GitLab simulator does not implement the sort order '%s'", sort)
		}
		rows = append(rows, gqlRow{key: key, id: p.ID, obj: gqlProject{w, p}})
	}
	by.name = "projects:" + by.name
	return gqlPage("ProjectConnection", rows, by, args)
}

func gqlFilter[T any](in []T, keep func(T) bool) []T {
	out := make([]T, 0, len(in))
	for _, v := range in {
		if keep(v) {
			out = append(out, v)
		}
	}
	return out
}

// gqlMemberRow is one row of a member list: where it is held, and the level shown.
type gqlMemberRow struct {
	Member
	kind   SourceKind
	source int64
}

// groupMemberRows follows GroupMembersFinder: one row per user over all relations, the one with the highest level; on a tie
// the group's own row, then the lowest custom role, then the latest expiry. Nothing is filtered by state or expiry, and an
// expired invitation still shows its people. Minimal access never appears.
func (w *graphQLWorld) groupMemberRows(g *Group, relations []string) []gqlMemberRow {
	var rows []gqlMemberRow
	add := func(from *Group, most int) {
		for _, m := range from.Members {
			if m.Level > MinimalAccess {
				m.Level = min(m.Level, most)
				rows = append(rows, gqlMemberRow{m, KindGroup, from.ID})
			}
		}
	}
	for _, relation := range relations {
		switch relation {
		case "DIRECT":
			add(g, Owner)
		case "INHERITED":
			for _, a := range w.v.Ancestors(g) {
				add(a, Owner)
			}
		case "DESCENDANTS":
			for _, d := range w.v.Descendants(g.ID) {
				add(d, Owner)
			}
		case "SHARED_FROM_GROUPS":
			member := w.v.GroupLevel(g.ID, w.userID()) > NoAccess
			for _, a := range w.v.SelfAndAncestors(g) {
				for _, l := range a.Links {
					if invited := w.v.Group(l.GroupID); invited != nil && (member || w.seesGroup(invited)) {
						add(invited, l.Level)
					}
				}
			}
		}
	}
	return onePerUser(rows, func(a, b gqlMemberRow) int {
		return cmp.Or(cmp.Compare(b.Level, a.Level), cmp.Compare(foreign(a, g.ID), foreign(b, g.ID)),
			cmp.Compare(roleRank(a), roleRank(b)), laterFirst(a.ExpiresAt, b.ExpiresAt), cmp.Compare(a.ID, b.ID))
	})
}

// projectMemberRows follows MembersFinder. [DIRECT] alone gives the project's own rows as they are stored; every other list
// also contains the direct and inherited members of the project's group, and shows the authorised level where there is one.
func (w *graphQLWorld) projectMemberRows(p *Project, relations []string) []gqlMemberRow {
	var own, rows []gqlMemberRow
	mayAdminister := w.admin() || w.v.ProjectLevel(p.ID, w.userID()) >= Maintainer
	for _, m := range p.Members {
		if m.UserID != 0 || mayAdminister {
			own = append(own, gqlMemberRow{m, KindProject, p.ID})
		}
	}
	if slices.Equal(relations, []string{"DIRECT"}) {
		return own
	}
	group := w.v.GroupOf(p)
	withUser := func(in []gqlMemberRow) []gqlMemberRow {
		return gqlFilter(in, func(r gqlMemberRow) bool { return r.UserID != 0 })
	}
	has := func(relation string) bool { return slices.Contains(relations, relation) }
	union := false
	if group != nil {
		union = true
		of := []string{"DIRECT", "INHERITED"}
		if has("DESCENDANTS") {
			of = append(of, "DESCENDANTS")
		}
		rows = append(rows, withUser(w.groupMemberRows(group, of))...)
		if has("SHARED_INTO_ANCESTORS") {
			rows = append(rows, withUser(w.groupMemberRows(group, []string{"SHARED_FROM_GROUPS"}))...)
		}
	}
	if has("INVITED_GROUPS") {
		union = true
		member := w.v.ProjectLevel(p.ID, w.userID()) > NoAccess
		for _, l := range p.Links {
			invited := w.v.Group(l.GroupID)
			if invited == nil || !member && !w.seesGroup(invited) {
				continue
			}
			for _, a := range w.v.SelfAndAncestors(invited) {
				for _, m := range a.Members {
					if m.UserID == 0 || m.Level <= MinimalAccess {
						continue
					}
					if group != nil && group.ShareWithGroupLock {
						m.Level = NoAccess
					}
					rows = append(rows, gqlMemberRow{m, KindGroup, a.ID})
				}
			}
		}
	}
	if has("DIRECT") {
		union = true
		rows = append(rows, own...)
	}
	if !union { // a personal project and only relations to groups: GitLab falls back to the project's own rows
		return own
	}
	rows = onePerUser(rows, func(a, b gqlMemberRow) int {
		return cmp.Or(cmp.Compare(groupRow(a), groupRow(b)), cmp.Compare(a.ID, b.ID))
	})
	for i := range rows {
		if level := w.v.ProjectLevel(p.ID, rows[i].UserID); level > NoAccess {
			rows[i].Level = level
		}
	}
	return rows
}

// onePerUser keeps the first row of each user in the given order. Invitations have no user and are all kept.
func onePerUser(rows []gqlMemberRow, compare func(a, b gqlMemberRow) int) []gqlMemberRow {
	slices.SortFunc(rows, compare)
	seen := map[[2]int64]bool{}
	return gqlFilter(rows, func(r gqlMemberRow) bool {
		key := [2]int64{r.UserID, 0}
		if r.UserID == 0 {
			key[1] = r.ID
		}
		fresh := !seen[key]
		seen[key] = true
		return fresh
	})
}

func foreign(r gqlMemberRow, group int64) int {
	if r.source == group {
		return 0
	}
	return 1
}

func groupRow(r gqlMemberRow) int {
	if r.kind == KindProject {
		return 0
	}
	return 1
}

func roleRank(r gqlMemberRow) uint64 { return uint64(r.MemberRoleID) - 1 } // ascending, none last, as Postgres orders NULL

func laterFirst(a, b string) int { // descending, never first, as Postgres orders NULL
	switch {
	case a == b:
		return 0
	case a == "" || b != "" && a > b:
		return -1
	default:
		return 1
	}
}

// levelEnum is the AccessLevelEnum of a level; GitLab has none for a level it does not know.
func levelEnum(level int) string {
	switch level {
	case NoAccess:
		return "NO_ACCESS"
	case MinimalAccess:
		return "MINIMAL_ACCESS"
	case Guest:
		return "GUEST"
	case Planner:
		return "PLANNER"
	case Reporter:
		return "REPORTER"
	case SecurityManager:
		return "SECURITY_MANAGER"
	case Developer:
		return "DEVELOPER"
	case Maintainer:
		return "MAINTAINER"
	case Owner:
		return "OWNER"
	case 60:
		return "ADMIN"
	default:
		return ""
	}
}

func (w *graphQLWorld) memberPage(name, edgeKind string, rows []gqlMemberRow, args arguments) (any, error) {
	if err := unsimulated(args, "enterprise"); err != nil {
		return nil, err
	}
	if levels, ok := args.list("accessLevels"); ok {
		rows = gqlFilter(rows, func(r gqlMemberRow) bool {
			return slices.Contains(levels, levelEnum(r.Level))
		})
	}
	if types, ok := args.list("userTypes"); ok {
		rows = gqlFilter(rows, func(r gqlMemberRow) bool {
			u := w.v.User(r.UserID)
			return u != nil && slices.Contains(types, u.Type)
		})
	}
	if search := args.str("search"); search != "" {
		rows = gqlFilter(rows, func(r gqlMemberRow) bool {
			u := w.v.User(r.UserID)
			return u != nil && (gqlContains(u.Name, search) || gqlContains(u.Username, search))
		})
	}
	if ids, ok := args.list("ids"); ok {
		rows = gqlFilter(rows, func(r gqlMemberRow) bool { return slices.Contains(ids, gqlMember{w, r}.globalID()) })
	}
	field, by := "id", gqlOrder{name: "id", desc: true} // what GitLab's keyset pagination falls back to
	if s := args.str("sort"); s != "" {
		var err error
		if field, by, err = gqlParseSort(s); err != nil {
			return nil, err
		}
	}
	by.name = edgeKind + ":" + by.name
	out := make([]gqlRow, 0, len(rows))
	for _, r := range rows {
		key := ""
		switch field {
		case "access_level":
			key = fmt.Sprintf("%03d", r.Level)
		case "user_full_name":
			if u := w.v.User(r.UserID); u != nil {
				key = strings.ToLower(u.Name)
			}
		case "created", "updated":
			key = r.CreatedAt.UTC().Format(gqlKeyTime)
		}
		out = append(out, gqlRow{key: key, id: r.ID, obj: gqlMember{w, r}})
	}
	return gqlPage(name, out, by, args)
}
