package audit

import (
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

var quiet = slog.New(slog.DiscardHandler)

const issuer = "https://gitlab.example.com"

// newCluster returns a fake API server with some Secrets, which have versions, as a real one's have.
func newCluster(stored ...corev1.Secret) *fake.Clientset {
	var mu sync.Mutex
	last := 0
	objects := make([]runtime.Object, 0, len(stored))
	for i := range stored {
		objects = append(objects, &stored[i])
		version, _ := strconv.Atoi(stored[i].ResourceVersion)
		last = max(last, version)
	}
	kube := fake.NewSimpleClientset(objects...) // the other one tracks who owns each field, which takes a second for 1 MiB
	secrets := schema.GroupResource{Resource: "secrets"}
	kube.PrependReactor("*", "secrets", func(a kubetesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		var s *corev1.Secret
		switch a := a.(type) {
		case kubetesting.DeleteActionImpl:
			old, err := kube.Tracker().Get(a.GetResource(), a.GetNamespace(), a.GetName())
			if p := a.GetDeleteOptions().Preconditions; err == nil && p != nil && *p.ResourceVersion != old.(*corev1.Secret).ResourceVersion {
				return true, nil, apierrors.NewConflict(secrets, a.GetName(), nil)
			}
			return false, nil, nil
		case kubetesting.UpdateAction: // of an UpdateAction and of a CreateAction the methods are the same
			s = a.GetObject().(*corev1.Secret)
		default:
			return false, nil, nil
		}
		size := 0
		for _, v := range s.Data {
			size += len(v)
		}
		if size > 1<<20 {
			return true, nil, apierrors.NewRequestEntityTooLargeError("a Secret holds 1 MiB")
		}
		if a.GetVerb() == "update" {
			old, err := kube.Tracker().Get(a.GetResource(), s.Namespace, s.Name)
			if err != nil {
				return true, nil, err
			}
			if have := old.(*corev1.Secret).ResourceVersion; s.ResourceVersion != "" && s.ResourceVersion != have {
				return true, nil, apierrors.NewConflict(secrets, s.Name, nil)
			}
		}
		last++
		s.ResourceVersion = strconv.Itoa(last)
		return false, nil, nil
	})
	return kube
}

// world is a cluster with its rights, and GitLab's people.
type world struct {
	now    time.Time
	rights map[string]map[string]map[int64]bool // by namespace and role
	users  map[int64]authz.User
	owners map[string]int64 // of namespaces that are a person's
	// projects are those of namespaces that are one's; unread are namespaces whose source GitLab does not tell of.
	projects map[string]authz.Project
	unread   map[string]bool
}

func newWorld(people int64) *world {
	w := &world{now: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), rights: map[string]map[string]map[int64]bool{}, users: map[int64]authz.User{}, owners: map[string]int64{}, projects: map[string]authz.Project{}, unread: map[string]bool{}}
	for id := range people {
		w.users[id+1] = authz.User{ID: id + 1, Username: "u" + strconv.FormatInt(id+1, 10), State: authz.StateActive, Human: true}
	}
	return w
}

func (w *world) clone() *world {
	out := *w
	out.users, out.owners, out.projects, out.unread = maps.Clone(w.users), maps.Clone(w.owners), maps.Clone(w.projects), maps.Clone(w.unread)
	out.rights = map[string]map[string]map[int64]bool{}
	for ns, roles := range w.rights {
		out.rights[ns] = map[string]map[int64]bool{}
		for role, users := range roles {
			out.rights[ns][role] = maps.Clone(users)
		}
	}
	return &out
}

// copies returns a function that copies a world and its cluster as they are now.
func copies(t *testing.T, w *world, kube *fake.Clientset) func() (*world, *fake.Clientset) {
	t.Helper()
	was, stored := w.clone(), secrets(t, kube)
	return func() (*world, *fake.Clientset) { return was.clone(), newCluster(stored...) }
}

func (w *world) source(ns string) authz.SourceID {
	if id := w.owners[ns]; id != 0 {
		return authz.UserID(id)
	}
	if p, ok := w.projects[ns]; ok {
		return authz.ProjectID(p.ID)
	}
	var n int64
	for _, c := range ns {
		n = n*31 + int64(c)
	}
	return authz.GroupID(n)
}

func binding(role string, users map[int64]bool) *rbacsync.Binding {
	b := &rbacsync.Binding{Role: role, Others: []rbacv1.Subject{}}
	b.Users = slices.Sorted(maps.Keys(users))
	return b
}

func key(ns, role string) rbacsync.Key {
	return rbacsync.Key{Namespace: ns, Kind: rbacsync.KindRoleBinding, Name: bindingPrefix + role}
}

// observed is what the cluster holds in a scope.
func (w *world) observed(scope rbacsync.Scope) *rbacsync.Observed {
	o := &rbacsync.Observed{}
	for ns, roles := range w.rights {
		if scope != nil && !scope[ns] {
			continue
		}
		o.Live = append(o.Live, &rbacsync.Live{Object: rbacsync.Object{Key: rbacsync.NamespaceKey(ns), Namespace: &rbacsync.Namespace{Source: w.source(ns), Issuer: issuer}}})
		for role, users := range roles {
			o.Live = append(o.Live, &rbacsync.Live{Object: rbacsync.Object{Key: key(ns, role), Binding: binding(role, users)}})
		}
	}
	return o
}

func (w *world) snapshot() *authz.Snapshot {
	s := &authz.Snapshot{Issuer: issuer, Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{}, Projects: map[int64]authz.Project{}}
	maps.Copy(s.Users, w.users)
	for ns := range w.rights {
		switch id := w.source(ns); {
		case w.unread[ns]:
		case id.Kind == authz.GroupSource:
			s.Groups[id.ID] = authz.Group{ID: id.ID, Path: ns}
		case id.Kind == authz.ProjectSource:
			s.Projects[id.ID] = w.projects[ns]
		}
	}
	return s
}

// flip gives a right to somebody or takes it.
func (w *world) flip(ns, role string, user int64) {
	if w.rights[ns] == nil {
		w.rights[ns] = map[string]map[int64]bool{}
	}
	if w.rights[ns][role] == nil {
		w.rights[ns][role] = map[int64]bool{}
	}
	if users := w.rights[ns][role]; users[user] {
		delete(users, user)
	} else {
		users[user] = true
	}
}

// flips is what one pass changes.
type flips struct {
	ns, role string
	user     int64
}

// pass makes changes as a pass does, and returns what it tells.
func (w *world) pass(kind syncer.Kind, cause string, scope rbacsync.Scope, do ...flips) Written {
	w.now = w.now.Add(time.Second)
	x := Written{Kind: kind, Cause: cause, Scope: scope, Observed: w.observed(scope), Snapshot: w.snapshot(), Began: w.now}
	before := map[rbacsync.Key]*rbacsync.Binding{}
	for _, f := range do {
		k := key(f.ns, f.role)
		if _, ok := before[k]; !ok {
			before[k] = binding(f.role, w.rights[f.ns][f.role])
		}
		w.flip(f.ns, f.role, f.user)
	}
	for _, f := range do {
		k := key(f.ns, f.role)
		if before[k] == nil {
			continue
		}
		c := rbacsync.Change{
			Action: rbacsync.Update, Key: k, Source: w.source(f.ns), Old: &rbacsync.Live{Object: rbacsync.Object{Key: k, Binding: before[k]}},
			New: &rbacsync.Object{Key: k, Binding: binding(f.role, w.rights[f.ns][f.role])}, Why: w.source(f.ns).String() + " " + f.ns,
		}
		before[k] = nil
		x.Made = append(x.Made, c)
	}
	w.now = w.now.Add(time.Second)
	x.Ended = w.now
	return x
}

func (w *world) writer(kube kubernetes.Interface, l Limits) *Writer {
	return NewWriter(Options{Kube: kube, Limits: func() Limits { return l }, Now: func() time.Time { return w.now }, Log: quiet})
}

func (w *world) save(t *testing.T, x *Writer, of ...Written) {
	t.Helper()
	for _, p := range of {
		x.Take(p)
	}
	if err := x.save(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// refuse makes writes fail.
func refuse(kube *fake.Clientset, why func() error) {
	kube.PrependReactor("*", "secrets", func(a kubetesting.Action) (bool, runtime.Object, error) {
		if a.GetVerb() == "get" || a.GetVerb() == "list" {
			return false, nil, nil
		}
		err := why()
		return err != nil, nil, err
	})
}
