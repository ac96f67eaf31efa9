// Package webadmin is what administrators see and do on the page: the leader's status, what is held and its approval, people and
// namespaces, explanations. It is made of what the leader has stored, so each replica shows it. It decides who is an administrator, and
// nothing else.
package webadmin

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/docs"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/expiry"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/explain"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/explain/live"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/web"
)

const (
	timeout  = 5 * time.Second // for what is stored in the cluster
	maxLines = 500             // of a part that is held
	maxHints = 100             // things that the leader looks at soon after an approval; at the rest in its next round
)

// Options are what an Admin is made of.
type Options struct {
	Group     int64       // whose members are administrators; 0: GitLab's own are
	GitLab    AdminClient // optional with a Group
	View      func() (authz.View, bool)
	Kube      kubernetes.Interface
	Held      store.Held
	GitLabURL string
	Limits    map[string]float64                      // of GitLab, in a minute
	Ends      func() []expiry.End                     // of this process
	Keys      func() (k authn.KeyStatus, judges bool) // of this process
	Findings  map[string]docs.Finding
	Engine    func() (roles clusterroles.Roles, mode string)
	// Hint has the leader look at these, as a hook does.
	Hint   func(ctx context.Context, changed []authz.SourceID, cause string) error
	Now    func() time.Time
	Logger *slog.Logger
}

// Admin implements web.Admin.
type Admin struct {
	*administrators
	o Options
}

// New returns what the pages for administrators are made of.
func New(o Options) *Admin {
	return &Admin{o: o, administrators: &administrators{group: o.Group, view: o.View, gitlab: o.GitLab, now: o.Now}}
}

// Search implements web.Admin.
func (a *Admin) Search(text string, limit int) (web.AdminFound, error) {
	v, ok := a.o.View()
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

// User implements web.Admin.
func (a *Admin) User(user int64, offset, limit int) (web.AdminUser, bool, error) {
	v, ok := a.o.View()
	if !ok {
		return web.AdminUser{}, false, people.ErrUnread
	}
	u, ok := v.Snapshot.Users[user]
	if !ok {
		return web.AdminUser{}, false, nil
	}
	rights := v.Rights(user, a.o.Now())
	out := web.AdminUser{User: u, Total: len(rights)}
	rights = rights[min(offset, len(rights)):]
	for _, r := range rights[:min(limit, len(rights))] {
		path, _ := v.Snapshot.Path(r.Source)
		x := web.AdminRight{Namespace: r.Namespace, Path: path, Roles: r.ClusterRoles, Lacks: r.Lacks, State: string(r.Absent), Reason: "authz.extra"}
		if t, member := v.Trail(user, r.Source, a.o.Now()); member {
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
func (a *Admin) Namespace(name string) (web.AdminNamespace, bool, error) {
	v, ok := a.o.View()
	if !ok {
		return web.AdminNamespace{}, false, people.ErrUnread
	}
	src, ok := v.Source[name]
	if !ok {
		return web.AdminNamespace{}, false, nil
	}
	out := web.AdminNamespace{AdminPlace: web.AdminPlace{Name: name, Source: src.String()}}
	if path, ok := v.Snapshot.Path(src); ok {
		out.Path, out.URL = path, a.o.GitLabURL+"/"+path
	}
	for _, h := range v.Who(name, a.o.Now()) {
		x := web.AdminHolder{User: h.User, Roles: h.ClusterRoles, Lacks: h.Lacks, State: string(h.Absent), Reason: h.Trail.Text}
		if !h.Trail.Until.IsZero() {
			x.Until = h.Trail.Until.Start()
		}
		out.Holders = append(out.Holders, x)
	}
	return out, true, nil
}

// Explain implements web.Admin.
func (a *Admin) Explain(ctx context.Context, user string, q authz.Question) (explain.Report, bool, error) {
	v, ok := a.o.View()
	if !ok {
		return explain.Report{}, false, people.ErrUnread
	}
	id, err := live.UserNamed(user, v.Snapshot)
	if err != nil {
		return explain.Report{}, false, nil //nolint:nilerr // there is nobody of that name
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	roles, mode := a.o.Engine()
	x := &live.Explainer{Kube: a.o.Kube, View: v, Roles: roles, Basis: explain.Basis{Read: v.Snapshot.Taken, Mode: mode}}
	return x.ExplainUnasked(ctx, id, q, a.o.Now()), true, nil // kube-apiserver answers our ServiceAccount no such question: docs/adr/0124
}
