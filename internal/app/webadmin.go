package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/docs"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/expiry"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/explain"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/web"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

const (
	adminTimeout = 5 * time.Second    // for what is stored in the cluster
	adminLines   = 500                // of a part that is held
	adminHints   = 100                // things that the leader looks at soon after an approval; at the rest in its next round
	endsSoon     = 3 * 24 * time.Hour // as the alert GlK8sIntegratorExpiry
	adminsEvery  = time.Minute        // how often GitLab is asked for its administrators, at most
)

// webAdmin is what administrators see on the page: what the leader has stored, so each replica shows it. It implements web.Admin.
type webAdmin struct {
	*administrators
	kube      kubernetes.Interface
	held      store.Held
	gitlabURL string
	limits    map[string]float64                      // of GitLab, in a minute
	ends      func() []expiry.End                     // of this process
	keys      func() (k authn.KeyStatus, judges bool) // of this process
	findings  map[string]docs.Finding
	engine    func() (roles clusterroles.Roles, mode string)
	// hint has the leader look at these, as a hook does.
	hint func(ctx context.Context, changed []authz.SourceID, cause string) error
	log  *slog.Logger
}

// newWebAdmin returns what the pages for administrators are made of.
func (s *server) newWebAdmin() *webAdmin {
	return &webAdmin{
		administrators: &administrators{group: s.cfg.Web.AdminGroup, view: s.view, gitlab: s.reader, now: time.Now},
		kube:           s.clients.kube, held: heldStore(s.clients), gitlabURL: s.cfg.GitLab.URL, limits: gitlab.LimitsPerMinute(), findings: docs.Findings(),
		ends: s.ends,
		hint: s.kept.inbox.Put, log: s.log,
		engine: func() (clusterroles.Roles, string) {
			g := s.now.Load()
			return g.core.roles.Roles(), g.cfg.RBACSync.Mode
		},
		keys: func() (authn.KeyStatus, bool) {
			if auth := s.now.Load().auth; auth != nil {
				return auth.KeyStatus(), true
			}
			return authn.KeyStatus{}, false
		},
	}
}

// jobAudience returns the audience of CI jobs' ID tokens; "": they are not let in.
func (s *server) jobAudience() string {
	if ci := s.now.Load().cfg.Authn.CI; ci != nil {
		return ci.Audience
	}
	return ""
}

// adminClient is GitLab's word on who is an administrator.
type adminClient interface {
	IsAdmin(ctx context.Context, id int64) (bool, error)
	Admins(ctx context.Context) (map[int64]bool, error)
}

// administrators knows who may see the pages for administrators: GitLab's, by its word at each use, or the members of one group.
type administrators struct {
	group  int64 // 0: GitLab's administrators
	view   func() (authz.View, bool)
	gitlab adminClient
	now    func() time.Time

	mu     sync.Mutex
	likely map[int64]bool // whom GitLab named as administrators last; nil: anybody could be one
	asked  time.Time      // when
}

// Is implements web.Admin. Whom GitLab did not name within the last minute is none: else each sign-in of anybody would use up what
// GitLab allows us to ask about accounts.
func (a *administrators) Is(ctx context.Context, user int64) (bool, error) {
	if a.group != 0 {
		return a.inGroup(user)
	}
	a.mu.Lock()
	likely, fresh := a.likely, !a.asked.IsZero() && a.now().Sub(a.asked) < adminsEvery
	a.mu.Unlock()
	if !fresh {
		at := a.now()
		named, err := a.gitlab.Admins(ctx)
		if err != nil {
			return false, err
		}
		a.mu.Lock()
		a.likely, a.asked = named, at
		a.mu.Unlock()
		likely = named
	}
	if likely != nil && !likely[user] {
		return false, nil
	}
	return a.gitlab.IsAdmin(ctx, user)
}

// inGroup reports whether somebody is a member of the group, by what was read of GitLab last.
func (a *administrators) inGroup(user int64) (bool, error) {
	v, ok := a.view()
	if !ok {
		return false, people.ErrUnread
	}
	id := authz.GroupID(a.group)
	if why, missing := v.Snapshot.Missing[id]; missing {
		return false, fmt.Errorf("web.adminGroup: %s could not be read: %s", id, why)
	}
	if u := v.Snapshot.Users[user]; u.State != authz.StateActive || !u.Human {
		return false, nil
	}
	_, member := authz.NewResolver(v.Snapshot, a.now()).Members(id).Access(user)
	return member, nil
}

// Status implements web.Admin.
func (a *webAdmin) Status(ctx context.Context) (web.AdminStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	out := web.AdminStatus{Ends: a.allEnds()}
	if k, judges := a.keys(); judges {
		out.Keys = web.AdminKeys{Keys: k.Keys, Fetched: k.Fetched, Failures: k.Failures}
	} else {
		out.Keys.None = true
	}
	s, err := status.Read(ctx, a.kube)
	if errors.Is(err, status.ErrNone) {
		out.None = true
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("reading the leader's status: %w", err)
	}
	out.Mode, out.Leader, out.Stale = s.Mode, s.Holder, s.Old(a.now())
	out.Failing, out.Since, out.Written, out.Read, out.Held = s.Failing, s.Since, s.Written, s.Read, s.Held
	r := s.Round
	out.Round = web.AdminRound{Cause: r.Cause, Started: r.Started, Duration: r.Duration, Namespaces: r.Namespaces, Planned: r.Planned, Applied: r.Applied, Failed: r.Failed}
	for _, name := range slices.Sorted(maps.Keys(s.Sources)) {
		out.Sources = append(out.Sources, web.Amount{Name: name, Value: strconv.Itoa(s.Sources[name])})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Staleness)) {
		out.Staleness = append(out.Staleness, web.Amount{Name: name, Value: s.Staleness[name]})
	}
	out.Hooks = web.AdminHooks{None: s.NoHooks, Count: s.Hooks, Median: s.HookMedian, Slowest: s.HookSlowest, Refused: s.HooksRefused}
	out.NoLogins = s.NoLogins
	if s.Activity != nil {
		out.Hooks.Last, out.Login = s.Activity.Hook.At, s.Activity.Login.At
	}
	out.Findings, out.More = a.found(s)
	out.Budget = a.budget(s)
	return out, nil
}

// allEnds returns what ends, the first first.
func (a *webAdmin) allEnds() []web.AdminEnd {
	var out []web.AdminEnd
	for _, e := range a.ends() {
		out = append(out, web.AdminEnd{What: e.What, At: e.At, Soon: e.At.Sub(a.now()) < endsSoon})
	}
	slices.SortFunc(out, func(x, y web.AdminEnd) int { return cmp.Or(x.At.Compare(y.At), cmp.Compare(x.What, y.What)) })
	return out
}

// found returns the findings with what the pages of docs say of them; and how many more there are, whose texts were not kept.
func (a *webAdmin) found(s status.Summary) (out []web.AdminFinding, more int) {
	words := a.findings
	counted := map[string]bool{}
	add := func(code, text string) {
		f := web.AdminFinding{Code: code, Text: text, Says: words[code].Says, Do: words[code].Do}
		if !counted[code] {
			counted[code], f.Count = true, s.Findings[code]
		}
		out = append(out, f)
	}
	more = -len(s.Texts)
	for _, text := range s.Texts {
		code, text, _ := strings.Cut(text, ": ")
		add(code, text)
	}
	for _, code := range slices.Sorted(maps.Keys(s.Findings)) {
		more += s.Findings[code]
		if !counted[code] {
			add(code, "")
			more--
		}
	}
	slices.SortStableFunc(out, func(x, y web.AdminFinding) int { return cmp.Compare(x.Code, y.Code) })
	return out, max(0, more)
}

// budget returns the use of GitLab's limits: first of what has one.
func (a *webAdmin) budget(s status.Summary) []web.AdminBudget {
	kinds := map[string]bool{}
	for kind := range a.limits {
		kinds[kind] = true
	}
	for kind := range s.Requests {
		kinds[kind] = true
	}
	var out []web.AdminBudget
	for kind := range kinds {
		out = append(out, web.AdminBudget{Kind: kind, Requests: s.Requests[kind], Limit: a.limits[kind], Share: s.Budget[kind]})
	}
	slices.SortFunc(out, func(x, y web.AdminBudget) int {
		if (x.Limit > 0) != (y.Limit > 0) {
			return cmp.Compare(y.Limit, x.Limit)
		}
		return cmp.Compare(x.Kind, y.Kind)
	})
	return out
}

// Held implements web.Admin.
func (a *webAdmin) Held(ctx context.Context) ([]web.HeldPart, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	items, err := a.held.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading what is held: %w", err)
	}
	approved, err := a.held.Approvals(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading what is approved: %w", err)
	}
	var out []web.HeldPart
	for _, s := range rbacsync.Sections(items) {
		shown := s.Items[:min(len(s.Items), adminLines)]
		p := web.HeldPart{
			Hash: s.Hash, Place: s.Place(), Why: s.Items[0].Why, Policy: s.Items[0].Change != "", More: s.Count() - len(shown), Approved: a.approver(s.Items, approved),
		}
		if path := a.path(s.Scope); path != "" {
			p.Place = path + " (" + s.Scope.String() + ")"
		}
		for _, i := range shown {
			l := web.HeldLine{New: i.Role == "", Source: i.Source.String(), Path: i.Path, User: i.User, Name: cmp.Or(i.Name, "?"), Role: i.Role, Cause: i.Cause.String()}
			switch path := a.path(i.Cause); {
			case i.Change != "":
				l.Cause = s.Place()
			case path != "":
				l.Cause = path + " (" + l.Cause + ")"
			}
			p.Lines = append(p.Lines, l)
		}
		out = append(out, p)
	}
	return out, nil
}

// path returns what people call something in GitLab; "" if that is not known.
func (a *webAdmin) path(id authz.SourceID) string {
	if v, ok := a.view(); ok {
		path, _ := v.Snapshot.Path(id)
		return path
	}
	return ""
}

// approver returns who approved all of these, "" if nobody did.
func (a *webAdmin) approver(items []rbacsync.Item, approved map[string]string) string {
	by := ""
	for _, i := range items {
		one, ok := approved[i.Key()]
		if !ok {
			return ""
		}
		by = cmp.Or(by, one)
	}
	if id, ok := kubename.ParseUser(by); ok {
		if name := a.path(authz.UserID(id)); name != "" {
			return name + " (" + by + ")"
		}
	}
	return cmp.Or(by, "an administrator")
}

// Approve implements web.Admin.
func (a *webAdmin) Approve(ctx context.Context, by int64, hash string) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	items, err := a.held.Load(ctx)
	if err != nil {
		return fmt.Errorf("reading what is held: %w", err)
	}
	if !slices.ContainsFunc(rbacsync.Sections(items), func(s rbacsync.Section) bool { return s.Hash == hash }) { // all of it has a hash, too, that nobody was shown
		return web.ErrHeldChanged
	}
	switch items, err = a.held.Approve(ctx, hash, kubename.User(by)); {
	case errors.Is(err, rbacsync.ErrNoSuchHash):
		return web.ErrHeldChanged
	case errors.Is(err, store.ErrApproved):
		return web.ErrHeldApproved
	case err != nil:
		return fmt.Errorf("approving what is held: %w", err)
	}
	var named []authz.SourceID
	for _, i := range items {
		if !slices.Contains(named, i.Source) && len(named) < adminHints {
			named = append(named, i.Source)
		}
	}
	if err := a.hint(ctx, named, "approval"); err != nil { // it goes on with the next round then
		a.log.WarnContext(ctx, "the leader was not told of an approval, and finds it by itself", "error", err)
	}
	return nil
}

// Search implements web.Admin.
func (a *webAdmin) Search(text string, limit int) (web.AdminFound, error) {
	v, ok := a.view()
	if !ok {
		return web.AdminFound{}, people.ErrUnread
	}
	text = strings.ToLower(text)
	id, _ := strconv.ParseInt(strings.TrimPrefix(text, "gitlab:"), 10, 64)
	var out web.AdminFound
	for _, u := range v.Snapshot.Users {
		if u.ID == id || strings.Contains(strings.ToLower(u.Username), text) || strings.Contains(strings.ToLower(u.Name), text) {
			out.People = append(out.People, u)
		}
	}
	for src, name := range v.Namespace {
		path, _ := v.Snapshot.Path(src)
		if strings.Contains(name, text) || strings.Contains(strings.ToLower(path), text) || src.String() == text {
			out.Namespaces = append(out.Namespaces, web.AdminPlace{Name: name, Source: src.String(), Path: path})
		}
	}
	// What has exactly this name comes first, then the shorter.
	rank := func(exact bool, name string) string {
		return strconv.FormatBool(!exact) + fmt.Sprintf("%04d", len(name)) + name
	}
	slices.SortFunc(out.People, func(x, y authz.User) int {
		exact := func(u authz.User) bool { return u.ID == id || strings.EqualFold(u.Username, text) }
		return cmp.Compare(rank(exact(x), x.Username), rank(exact(y), y.Username))
	})
	slices.SortFunc(out.Namespaces, func(x, y web.AdminPlace) int {
		return cmp.Compare(rank(x.Name == text, x.Name), rank(y.Name == text, y.Name))
	})
	out.MorePeople, out.MoreNamespaces = max(0, len(out.People)-limit), max(0, len(out.Namespaces)-limit)
	out.People, out.Namespaces = out.People[:len(out.People)-out.MorePeople], out.Namespaces[:len(out.Namespaces)-out.MoreNamespaces]
	return out, nil
}

// Person implements web.Admin.
func (a *webAdmin) Person(user int64, offset, limit int) (web.AdminPerson, bool, error) {
	v, ok := a.view()
	if !ok {
		return web.AdminPerson{}, false, people.ErrUnread
	}
	u, ok := v.Snapshot.Users[user]
	if !ok {
		return web.AdminPerson{}, false, nil
	}
	rights := v.Rights(user, a.now())
	out := web.AdminPerson{User: u, Total: len(rights)}
	rights = rights[min(offset, len(rights)):]
	for _, r := range rights[:min(limit, len(rights))] {
		path, _ := v.Snapshot.Path(r.Source)
		x := web.AdminRight{Namespace: r.Namespace, Path: path, Roles: r.ClusterRoles, Lacks: r.Lacks, State: string(r.Absent), Reason: "authz.extra"}
		if t, member := v.Trail(user, r.Source, a.now()); member {
			x.Reason = t.Text
			if !t.Until.IsZero() {
				x.Until = t.Until.Start()
			}
		}
		out.Rights = append(out.Rights, x)
	}
	return out, true, nil
}

// Namespace implements web.Admin.
func (a *webAdmin) Namespace(name string) (web.AdminNamespace, bool, error) {
	v, ok := a.view()
	if !ok {
		return web.AdminNamespace{}, false, people.ErrUnread
	}
	src, ok := v.Source[name]
	if !ok {
		return web.AdminNamespace{}, false, nil
	}
	out := web.AdminNamespace{AdminPlace: web.AdminPlace{Name: name, Source: src.String()}}
	if path, ok := v.Snapshot.Path(src); ok {
		out.Path, out.URL = path, a.gitlabURL+"/"+path
	}
	for _, h := range v.Who(name, a.now()) {
		x := web.AdminHolder{User: h.User, Roles: h.ClusterRoles, Lacks: h.Lacks, State: string(h.Absent), Reason: h.Trail.Text}
		if !h.Trail.Until.IsZero() {
			x.Until = h.Trail.Until.Start()
		}
		out.Holders = append(out.Holders, x)
	}
	return out, true, nil
}

// Explain implements web.Admin.
func (a *webAdmin) Explain(ctx context.Context, person string, q authz.Question) (explain.Report, bool, error) {
	v, ok := a.view()
	if !ok {
		return explain.Report{}, false, people.ErrUnread
	}
	id, err := userNamed(person, v.Snapshot)
	if err != nil {
		return explain.Report{}, false, nil //nolint:nilerr // there is nobody of that name
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	roles, mode := a.engine()
	x := &explainer{kube: a.kube, view: v, roles: roles, basis: explain.Basis{Read: v.Snapshot.Taken, Mode: mode}}
	var live explain.Live
	if q.Namespace != "" {
		live = x.live(ctx, q.Namespace)
	} else {
		live.Rules = x.rules(ctx, "")
	}
	return explain.New(v.Explain(id, q, a.now()), q, x.basis, live), true, nil // kube-apiserver answers our ServiceAccount no such question: docs/adr/0124
}
