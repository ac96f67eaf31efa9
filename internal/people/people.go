// Package people tells a signed-in person about themself: their namespaces, how they come to them, whether they may do something,
// what changed, and what the jobs of their projects get. The page, /api/v1 and the plug-in all ask it, so that they say the same.
//
// An answer about somebody is made of their own rights, of what GitLab shows them as a member, and of the configuration; of what they
// are no member of it says neither path nor people (docs/adr/0080). It does no I/O of its own, and keeps nothing.
package people

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// What a method can fail with, besides what Options.Changes returns.
var (
	// ErrUnread: GitLab was not read yet by any process, so nothing is known. It passes by itself.
	ErrUnread = errors.New("GitLab has not been read yet: try again in a minute")
	// ErrNoProject is the same for a project that does not exist and for one that the person may not know.
	ErrNoProject = errors.New("no such project, or none in which you are Developer or more: give its path, as haw/world, or its number")
	// ErrNoHistory: no history is kept.
	ErrNoHistory = errors.New("no history of changes is kept here")
	// ErrHistoryBusy, which Options.Changes may return: others read the history, and it takes long. It passes by itself.
	ErrHistoryBusy = errors.New("the history takes long to read now: try again in a few seconds")
)

// Options are what a Service answers from.
type Options struct {
	// View returns what is known of GitLab and of the cluster; false until GitLab was read first.
	View func() (authz.View, bool)
	// CI, optional, says what the jobs of a project get; false: it has no deploy jobs here.
	CI func(v authz.View, project int64) (webapi.CI, bool)
	// Changes, optional, returns a person's own changes since then, in any order.
	Changes func(ctx context.Context, user int64, since time.Time) ([]Changed, error)
	// GitLabURL is GitLab's external URL without a slash at its end.
	GitLabURL string
	Now       func() time.Time // nil: time.Now
}

// Changed is a change of a person's rights, as it was written down.
type Changed struct {
	// Why may name what the namespace belonged to, and other groups and projects, by path or as "project/42": it is for members.
	webapi.Change
	// Placeless is what of Why names none of them.
	Placeless string
	// Approved says that the change was held, and that an administrator let it go on.
	Approved bool
}

// Service answers. Its methods may be called at the same time.
type Service struct{ o Options }

// New returns a Service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o}
}

// Filter chooses some of a person's namespaces. The zero Filter chooses all.
type Filter struct {
	Name   string // the one of this name; "": any
	Search string // part of the name or path, in any case; several words: all of them
	Offset int
	Limit  int // 0: no limit
}

// view returns what is known.
func (s *Service) view() (authz.View, error) {
	v, ok := s.o.View()
	if !ok {
		return v, ErrUnread
	}
	return v, nil
}

// Identity says who that is. Before GitLab was read it is the number alone.
func (s *Service) Identity(user int64) webapi.Identity {
	id := webapi.Identity{ID: user}
	if v, ok := s.o.View(); ok {
		u := v.Snapshot.Users[user]
		id.Username, id.Name = u.Username, u.Name
	}
	return id
}

// Namespaces lists a person's namespaces by name.
func (s *Service) Namespaces(user int64, f Filter) (webapi.MyNamespaces, error) {
	v, err := s.view()
	if err != nil {
		return webapi.MyNamespaces{}, err
	}
	l := s.lister(v, user)
	rights := v.Rights(user, l.now)
	if words := strings.Fields(strings.ToLower(f.Search)); len(words) > 0 {
		rights = slices.DeleteFunc(rights, func(r authz.Right) bool { return !l.matches(r, words) })
	}
	if f.Name != "" {
		rights = slices.DeleteFunc(rights, func(r authz.Right) bool { return r.Namespace != f.Name })
	}
	out := webapi.MyNamespaces{User: s.Identity(user), AsOf: v.Snapshot.Taken, Total: len(rights), Namespaces: []webapi.Namespace{}}
	rights = rights[min(max(f.Offset, 0), len(rights)):]
	if f.Limit > 0 {
		rights = rights[:min(f.Limit, len(rights))]
	}
	for _, r := range rights {
		out.Namespaces = append(out.Namespaces, l.namespace(r))
	}
	return out, nil
}

// Reachable returns the names of the namespaces for which somebody wants a context: those in which they have a right in the cluster,
// with the strongest ClusterRole first, then by name; and after these those that come by themselves.
func (s *Service) Reachable(user int64) ([]string, error) {
	v, err := s.view()
	if err != nil {
		return nil, err
	}
	roles := v.Policy.ClusterRoles()
	by := make([][]string, len(roles)+1)
	for _, r := range v.Rights(user, s.o.Now()) {
		rank := len(roles) // not there yet
		if i := slices.IndexFunc(r.ClusterRoles, func(role string) bool { return !slices.Contains(r.Lacks, role) }); i >= 0 {
			rank = slices.Index(roles, r.ClusterRoles[i])
		}
		by[rank] = append(by[rank], r.Namespace)
	}
	return slices.Concat(by...), nil
}

// lister makes the list of one person at one moment.
type lister struct {
	s    *Service
	v    authz.View
	user int64
	now  time.Time
	// trails are those that were needed: many changes are of a few namespaces.
	trails map[authz.SourceID]trail
}

type trail struct {
	authz.Trail
	member bool
}

func (s *Service) lister(v authz.View, user int64) lister {
	return lister{s: s, v: v, user: user, now: s.o.Now(), trails: map[authz.SourceID]trail{}}
}

// trail returns how the person is a member of a source; false if they are none, and may know nothing of it.
func (l *lister) trail(id authz.SourceID) (authz.Trail, bool) {
	t, ok := l.trails[id]
	if !ok {
		t.Trail, t.member = l.v.Trail(l.user, id, l.now)
		l.trails[id] = t
	}
	return t.Trail, t.member
}

// matches reports whether each word is in the name or the path.
func (l *lister) matches(r authz.Right, words []string) bool {
	path, known := "", false
	return !slices.ContainsFunc(words, func(w string) bool {
		if strings.Contains(r.Namespace, w) {
			return false
		}
		if path == "" {
			path, _ = l.v.Snapshot.Path(r.Source)
			path = strings.ToLower(path)
		}
		if !strings.Contains(path, w) {
			return true
		}
		if !known { // the path of what they are no member of is not for them, nor whether it matches
			_, known = l.trail(r.Source)
		}
		return !known
	})
}

// byConfiguration is the reason of a right that does not come from a membership in the source itself.
const byConfiguration = "given by this cluster's configuration"

func (l *lister) namespace(r authz.Right) webapi.Namespace {
	n := webapi.Namespace{
		Name: r.Namespace, Roles: r.ClusterRoles, Lacks: r.Lacks, Reason: byConfiguration, State: string(r.Absent), Why: r.Absent.Sentence(),
	}
	t, member := l.trail(r.Source)
	if !member {
		return n
	}
	n.Source, n.Path, n.Level, n.Reason = r.Source.String(), t.Path, t.Level.String(), authz.ToUser(t.Text)
	n.URL = l.s.o.GitLabURL + "/" + t.Path
	if !t.Until.IsZero() {
		until := t.Until.Start()
		n.Until = &until
	}
	if r.Source.Kind == authz.ProjectSource && t.Level >= mayDeploy && l.s.o.CI != nil {
		if ci, ok := l.s.o.CI(l.v, r.Source.ID); ok {
			n.CI = &ci
		}
	}
	return n
}

// mayDeploy is the level in a project from which on GitLab lets somebody run pipelines, and shows them the environments.
const mayDeploy = authz.Developer

// CI says what the deploy jobs of a project get, by its number or path.
func (s *Service) CI(user int64, project string) (webapi.CI, error) {
	v, err := s.view()
	if err != nil {
		return webapi.CI{}, err
	}
	id, ok := projectOf(v.Snapshot, project)
	if !ok || s.o.CI == nil {
		return webapi.CI{}, ErrNoProject
	}
	if t, member := v.Trail(user, authz.ProjectID(id), s.o.Now()); !member || t.Level < mayDeploy {
		return webapi.CI{}, ErrNoProject
	}
	ci, ok := s.o.CI(v, id)
	if !ok {
		return webapi.CI{}, ErrNoProject
	}
	return ci, nil
}

// projectOf finds a project by its number or path, in any case as GitLab does. It looks at all of them, whichever it is: how long
// that takes must not tell whether there is one.
func projectOf(s *authz.Snapshot, project string) (found int64, ok bool) {
	if id, err := strconv.ParseInt(project, 10, 64); err == nil {
		_, ok := s.Projects[id]
		return id, ok
	}
	project = strings.Trim(project, "/")
	for id, p := range s.Projects {
		if strings.EqualFold(p.Path, project) {
			found, ok = id, true
		}
	}
	return found, ok
}

// Can answers whether somebody may do what the Question says.
func (s *Service) Can(user int64, q authz.Question) (webapi.Can, error) {
	v, err := s.view()
	if err != nil {
		return webapi.Can{}, err
	}
	a := v.Answer(user, q, s.o.Now())
	return webapi.Can{Allowed: a.Allowed.String(), Reason: a.Sentence, Trail: a.Trail, Ask: a.Ask}, nil
}

// Changes returns a person's own changes since then, the newest first.
func (s *Service) Changes(ctx context.Context, user int64, since time.Time) ([]webapi.Change, error) {
	if s.o.Changes == nil {
		return nil, ErrNoHistory
	}
	v, err := s.view()
	if err != nil {
		return nil, err
	}
	changed, err := s.o.Changes(ctx, user, since)
	if err != nil {
		return nil, err
	}
	l := s.lister(v, user)
	list := make([]webapi.Change, 0, len(changed))
	for _, c := range changed {
		list = append(list, l.change(c))
	}
	slices.SortStableFunc(list, func(a, b webapi.Change) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Role, b.Role))
	})
	return list, nil
}

// sourceID is how a source is named where it has no path.
var sourceID = regexp.MustCompile(`\b(group|project|user)/(\d+)\b`)

// change leaves out why, unless the person is a member of what the namespace belongs to now, and of each source that it names by id:
// the namespace may have belonged to another one. What else it names they were a member of when it was written.
func (l *lister) change(c Changed) webapi.Change {
	_, member := l.trail(l.v.Source[c.Namespace])
	for _, m := range sourceID.FindAllStringSubmatch(c.Why, -1) {
		id, ok := authz.ParseLabel(m[1] + "-" + m[2])
		if _, theirs := l.trail(id); !ok || !theirs {
			member = false
		}
	}
	if !member {
		c.Why = c.Placeless
	}
	c.Why = authz.ToUser(c.Why)
	if c.Approved {
		c.Why = strings.TrimPrefix(c.Why+", approved by an administrator", ", ")
	}
	return c.Change
}
