package gitlab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Refresh reads only what changed and returns a Snapshot as a full reading would give, made from base, which stays
// as it is. It also reads what the changes lead to: below a deleted, archived or restored group everything, and
// groups and people nobody knew before. What GitLab says does not exist is gone; what could not be read is in
// Missing. Taken stays that of base, because most of the Snapshot is that old. The error is for when nothing at
// all could be read: then the changes are still to be done.
func (r *Reader) Refresh(ctx context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error) {
	f := &refresh{r: r, s: copySnapshot(base), done: map[authz.SourceID]bool{}, below: map[authz.SourceID]bool{}, fromRow: map[int64]bool{}}
	for _, id := range changed {
		f.want(id)
	}
	read := 0
	var lastErr error
	for len(f.queue) > 0 {
		slices.SortFunc(f.queue, authz.SourceID.Compare)
		id := f.queue[0]
		f.queue = f.queue[1:]
		err := f.read(ctx, id)
		if err == nil && f.notFound == id {
			f.notFound = authz.SourceID{}
			err = f.confirm(ctx, id)
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("reading changes from GitLab: %w", ctx.Err())
		}
		if err != nil {
			lastErr = err
			f.s.Missing[id] = err.Error()
			if global(err) && read == 0 {
				return nil, err
			}
			if global(err) {
				for _, id := range f.queue {
					f.s.Missing[id] = err.Error()
				}
				break
			}
			continue
		}
		read++
		delete(f.s.Missing, id)
		r.absences.forget(id)
	}
	if read == 0 && lastErr != nil && errors.Is(lastErr, ErrBusy) {
		return nil, lastErr
	}
	if !r.includeUsers {
		dropUnnamed(f.s)
	}
	for id := range f.fromRow { // it is not known to be a human or none: the next reading has to ask
		delete(f.s.Users, id)
	}
	blur(f.s)
	inheritFlags(f.s)
	f.r.readVariables(ctx, f.s, f.projectsRead())
	return f.s, nil
}

type refresh struct {
	r        *Reader
	s        *authz.Snapshot
	queue    []authz.SourceID
	done     map[authz.SourceID]bool
	notFound authz.SourceID
	below    map[authz.SourceID]bool // what was in a group that is gone
	fromRow  map[int64]bool          // people only known from a row so far
	admin    *bool                   // whether the token is an administrator's, once it was asked
}

func (f *refresh) want(id authz.SourceID) {
	if id.ID > 0 && !f.done[id] {
		f.done[id] = true
		f.queue = append(f.queue, id)
	}
}

// read reads one source into the copy. When GitLab answers 404 it sets notFound.
func (f *refresh) read(ctx context.Context, id authz.SourceID) (err error) {
	defer func() {
		if errors.Is(err, errAbsent) {
			f.notFound, err = id, nil
		}
	}()
	a := f.r.api
	switch id.Kind {
	case authz.GroupSource:
		rg, err := a.group(ctx, id.ID)
		if err != nil {
			return err
		}
		g := rg.group()
		if err := f.places().adopt(&g); err != nil {
			return err
		}
		if rg.Links == nil && len(f.s.Groups[id.ID].Links) > 0 {
			return errNoLinks
		}
		if rg.Links != nil {
			if g.Links, err = links(*rg.Links); err != nil {
				return err
			}
		}
		if err := f.mayLose(ctx, f.s.Groups[id.ID].Links, g.Links); err != nil {
			return err
		}
		rows, err := a.members(ctx, id)
		if err != nil {
			return err
		}
		g.Members = mergeMembers(rows)
		f.putGroup(g)
		f.takeRows(rows)
	case authz.ProjectSource:
		rp, err := a.project(ctx, id.ID)
		if err != nil {
			return err
		}
		if rp.Links == nil && len(f.s.Projects[id.ID].Links) > 0 {
			return errNoLinks
		}
		p, err := rp.project(f.places())
		if err != nil {
			return err
		}
		if err := f.mayLose(ctx, f.s.Projects[id.ID].Links, p.Links); err != nil {
			return err
		}
		rows, err := a.members(ctx, id)
		if err != nil {
			return err
		}
		p.Members = mergeMembers(rows)
		f.s.Projects[id.ID] = p
		f.wantGroup(p.Group)
		f.wantLinks(p.Links)
		if _, ok := f.s.Users[p.Owner]; !ok {
			f.want(authz.Person(p.Owner))
		}
		f.takeRows(rows)
	case authz.UserSource:
		old, ok := f.s.Users[id.ID]
		u, err := a.user(ctx, id.ID, ok && !f.fromRow[id.ID], old.Human)
		if err != nil {
			return err
		}
		delete(f.fromRow, id.ID)
		f.putUser(u)
	default:
		return fmt.Errorf("source %s: unknown kind", id)
	}
	return nil
}

// confirm removes a source for which GitLab answered 404, if it says so of the source itself when asked again: the
// first 404 may have been about its members alone, or an accident. GitLab says the same of what it hides, so this
// counts only while the token is an administrator's: a token that lost that would else make everything vanish. It says it
// twice at some distance in time (see absences), unless a hook says the same, or what it was in is gone by this rule.
func (f *refresh) confirm(ctx context.Context, id authz.SourceID) error {
	var again struct {
		ID int64 `json:"id"`
	}
	if _, err := f.r.api.get(ctx, sourcePath(id), nil, &again); err == nil {
		return fmt.Errorf("reading %s: GitLab answered 404 for a part of it, and then for the whole that it is there; the next full reading tells", id)
	} else if !errors.Is(err, errAbsent) {
		return err
	}
	if admin, err := f.isAdmin(ctx); err != nil {
		return err
	} else if !admin {
		return fmt.Errorf("GitLab does not show %s: it may be deleted, or hidden from our token, which is not an administrator's; the next full reading tells", id)
	}
	if wait := f.r.absences.wait(id, f.r.api.now()); wait > 0 && !f.below[id] {
		return fmt.Errorf("GitLab says that %s does not exist: it is asked once more in %s, when an accident may be over", id, wait)
	}
	f.gone(id)
	return nil
}

// isAdmin reports whether the token is an administrator's. GitLab is asked at most once.
func (f *refresh) isAdmin(ctx context.Context) (bool, error) {
	if f.admin == nil {
		me, _, err := f.r.api.self(ctx)
		if err != nil {
			return false, err
		}
		admin := me.IsAdmin != nil && *me.IsAdmin
		f.admin = &admin
	}
	return *f.admin, nil
}

// mayLose returns an error when an invitation of a group is not told any more by a token that is not an administrator's
// and was one: GitLab hides private groups from it.
func (f *refresh) mayLose(ctx context.Context, old, now []authz.Link) error {
	for _, l := range old {
		if !f.s.Admin || slices.ContainsFunc(now, func(n authz.Link) bool { return n.Group == l.Group }) {
			continue
		}
		if admin, err := f.isAdmin(ctx); err != nil {
			return err
		} else if !admin {
			return errors.New(authz.DemotedToken)
		}
	}
	return nil
}

// gone removes a source.
func (f *refresh) gone(id authz.SourceID) {
	switch id.Kind {
	case authz.GroupSource:
		delete(f.s.Groups, id.ID)
		for _, below := range f.wantBelow(id.ID) {
			f.below[below] = true
		}
		for gid, g := range f.s.Groups {
			if kept, cut := withoutLink(g.Links, id.ID); cut {
				g.Links = kept
				f.s.Groups[gid] = g
			}
		}
		for pid, p := range f.s.Projects {
			if kept, cut := withoutLink(p.Links, id.ID); cut {
				p.Links = kept
				f.s.Projects[pid] = p
			}
		}
	case authz.ProjectSource:
		delete(f.s.Projects, id.ID)
	case authz.UserSource:
		delete(f.s.Users, id.ID)
		for gid, g := range f.s.Groups {
			if kept, cut := withoutMember(g.Members, id.ID); cut {
				g.Members = kept
				f.s.Groups[gid] = g
			}
		}
		for pid, p := range f.s.Projects {
			if kept, cut := withoutMember(p.Members, id.ID); cut {
				p.Members = kept
				f.s.Projects[pid] = p
			}
			if p.Owner == id.ID {
				f.want(authz.Project(pid))
			}
		}
	}
}

// putGroup stores a group. Its path is part of the paths below it; its flags say something about all below it,
// which must be read again when a flag was taken back, because the Snapshot keeps only the sum.
func (f *refresh) putGroup(g authz.GitLabGroup) {
	old, known := f.s.Groups[g.ID]
	f.s.Groups[g.ID] = g
	f.wantGroup(g.Parent)
	f.wantLinks(g.Links)
	if !known {
		return
	}
	parent := f.s.Groups[g.Parent]
	if (old.Archived && !g.Archived && !parent.Archived) || (old.MarkedForDeletion && !g.MarkedForDeletion && !parent.MarkedForDeletion) ||
		old.Parent != g.Parent || old.ShareLock != g.ShareLock { // GitLab copies the lock to subgroups
		f.wantBelow(g.ID)
	}
	if old.Path != g.Path {
		f.movePaths(g, old.Path)
	}
}

// movePaths renames everything below a group that had the path from, which may be another group's by now.
func (f *refresh) movePaths(moved authz.GitLabGroup, from string) {
	if from == "" {
		return
	}
	top := authz.Group(moved.ID)
	for id, g := range f.s.Groups {
		if rest, ok := strings.CutPrefix(g.Path, from+"/"); ok && f.s.Within(authz.Group(id), top) {
			g.Path = moved.Path + "/" + rest
			f.s.Groups[id] = g
		}
	}
	for id, p := range f.s.Projects {
		if rest, ok := strings.CutPrefix(p.Path, from+"/"); ok && f.s.Within(authz.Project(id), top) {
			p.Path = moved.Path + "/" + rest
			f.s.Projects[id] = p
		}
	}
}

func (f *refresh) putUser(u authz.User) {
	old, known := f.s.Users[u.ID]
	f.s.Users[u.ID] = u
	if known && old.Username != u.Username {
		for id, p := range f.s.Projects {
			if rest, ok := strings.CutPrefix(p.Path, old.Username+"/"); ok && p.Owner == u.ID {
				p.Path = u.Username + "/" + rest
				f.s.Projects[id] = p
			}
		}
	}
}

// takeRows learns about people from their rows. Whether a new one is a human only his own record says.
func (f *refresh) takeRows(rows []memberRow) {
	for _, row := range rows {
		u, ok := f.s.Users[row.User]
		if !ok {
			f.s.Users[row.User] = row.user // stays without rights until it is known to be a human
			f.fromRow[row.User] = true
			f.want(authz.Person(row.User))
			continue
		}
		if row.user.Name != "" {
			u.Name = row.user.Name
		}
		if row.user.State != "" {
			u.State = row.user.State
		}
		if row.user.Username != "" && u.Username != row.user.Username {
			u.Username = row.user.Username
			f.want(authz.Person(row.User))
		}
		f.putUser(u)
	}
}

func (f *refresh) wantGroup(id int64) {
	if _, ok := f.s.Groups[id]; !ok {
		f.want(authz.Group(id))
	}
}

func (f *refresh) wantLinks(ls []authz.Link) {
	for _, l := range ls {
		f.wantGroup(l.Group)
	}
}

// wantBelow reads all subgroups and projects of a group again, and returns them.
func (f *refresh) wantBelow(id int64) (all []authz.SourceID) {
	below := map[int64]bool{id: true}
	for grew := true; grew; {
		grew = false
		for gid, g := range f.s.Groups {
			if below[g.Parent] && !below[gid] {
				below[gid], grew = true, true
				all = append(all, authz.Group(gid))
			}
		}
	}
	for pid, p := range f.s.Projects {
		if below[p.Group] {
			all = append(all, authz.Project(pid))
		}
	}
	for _, id := range all {
		f.want(id)
	}
	return all
}

func (f *refresh) places() places {
	return places{
		group: func(path string) int64 {
			for id, g := range f.s.Groups {
				if strings.EqualFold(g.Path, path) {
					return id
				}
			}
			return 0
		},
		user: func(path string) int64 {
			for id, u := range f.s.Users {
				if strings.EqualFold(u.Username, path) {
					return id
				}
			}
			return 0
		},
	}
}

func withoutLink(in []authz.Link, group int64) ([]authz.Link, bool) {
	if !slices.ContainsFunc(in, func(l authz.Link) bool { return l.Group == group }) {
		return in, false
	}
	out := slices.DeleteFunc(slices.Clone(in), func(l authz.Link) bool { return l.Group == group })
	if len(out) == 0 {
		return nil, true
	}
	return out, true
}

func withoutMember(in []authz.Member, user int64) ([]authz.Member, bool) {
	if !slices.ContainsFunc(in, func(m authz.Member) bool { return m.User == user }) {
		return in, false
	}
	out := slices.DeleteFunc(slices.Clone(in), func(m authz.Member) bool { return m.User == user })
	if len(out) == 0 {
		return nil, true
	}
	return out, true
}

// copySnapshot copies the maps. Rows and links are shared with base and replaced as a whole, never changed.
func copySnapshot(base *authz.Snapshot) *authz.Snapshot {
	s := *base
	s.Users, s.Groups, s.Projects, s.Missing = maps.Clone(base.Users), maps.Clone(base.Groups), maps.Clone(base.Projects), maps.Clone(base.Missing)
	if s.Users == nil {
		s.Users = map[int64]authz.User{}
	}
	if s.Groups == nil {
		s.Groups = map[int64]authz.GitLabGroup{}
	}
	if s.Projects == nil {
		s.Projects = map[int64]authz.GitLabProject{}
	}
	if s.Missing == nil {
		s.Missing = map[authz.SourceID]string{}
	}
	return &s
}

// dropUnnamed removes people whom no row and no personal project names.
func dropUnnamed(s *authz.Snapshot) {
	named := map[int64]bool{}
	for _, g := range s.Groups {
		for _, m := range g.Members {
			named[m.User] = true
		}
	}
	for _, p := range s.Projects {
		named[p.Owner] = true
		for _, m := range p.Members {
			named[m.User] = true
		}
	}
	maps.DeleteFunc(s.Users, func(id int64, _ authz.User) bool { return !named[id] })
}
