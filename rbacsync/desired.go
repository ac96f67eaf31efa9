package rbacsync

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/byid"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Settings say what a managed namespace looks like. The zero value of a field is its default.
type Settings struct {
	// PodSecurity is the Pod Security standard of namespaces, "baseline" or "restricted"; default DefaultPodSecurity.
	PodSecurity string
	// PodSecurityFor holds other standards for single sources. They are named by id, because anybody can make a
	// path that matches a pattern. "privileged" is only kept where an administrator has labelled the namespace so.
	PodSecurityFor map[authz.SourceID]string
	// MaxSubjects is the highest number of subjects in one RoleBinding; default 2,000. A subject takes about 80
	// bytes and etcd refuses objects over 1.5 MiB.
	MaxSubjects int
	// DeleteAfter is how long a namespace is kept after GitLab said that its source is gone; 0 keeps it for ever.
	DeleteAfter time.Duration
	// Adopt lists existing namespaces that sources may take over.
	Adopt []Adoption
	// Templates are further objects of namespaces; nil: none.
	Templates *Templates
	// CI says how the jobs of projects get their credentials.
	CI CISettings
}

// Input is everything Desired needs. It is read only.
type Input struct {
	Snapshot *authz.Snapshot
	Sources  []authz.Source
	Names    map[authz.SourceID]string // a source without a name gets nothing
	Grants   []authz.Grant
	Roles    []string // the ClusterRoles that have a binding in every namespace, with or without subjects
	Further  []string // ClusterRoles that have one where they are granted
	Settings Settings
	// Untouchable holds the sources that can't be judged, and why; nil means Incomplete of the Snapshot.
	Untouchable map[authz.SourceID]string
	Now         time.Time // for deletion
	// Secrets holds the data of those that templates copy, by name.
	Secrets map[string]map[string]any
	// CIStatus is what is known of deliveries, CILive which subjects the CI binding of a
	// namespace has besides the ServiceAccount. Both may be nil.
	CIStatus DeliveryStatuses
	CILive   map[string][]rbacv1.Subject
	// Have, optional, is what the cluster holds. What is wanted as it is there shares its memory: of a large GitLab nearly all is.
	Have *Observed
}

// Wanted is what should be in the cluster, and what must not be touched.
type Wanted struct {
	Issuer  string
	Objects []Object // sorted by Key
	Paths   map[authz.SourceID]string
	// Untouchable holds the sources that can't be judged in this round, and why (authz.Policy.Untouchable).
	Untouchable map[authz.SourceID]string
	// Hold, when set, says why nothing at all may be changed: not even the set of sources is known.
	Hold string
	// Keep holds the sources that should have no namespace (any more) and whose rights are held nevertheless (Limits).
	Keep map[authz.SourceID]bool
	// Nameless, of what is wanted in a Scope alone, holds the sources to which the last look at everything gave no namespace: one that
	// says it is theirs since then is left alone, until names are given again.
	Nameless map[authz.SourceID]bool
	// Adopt holds the namespaces that a source may take over.
	Adopt map[string]authz.SourceID
	// DeleteAfter, Now and Gone are for deletion: see afterwards. Gone holds what GitLab was asked about, true for its
	// 404.
	DeleteAfter time.Duration
	Now         time.Time
	Gone        map[authz.SourceID]bool
	// Roles are the policy's ClusterRoles, from the strongest to the weakest; Further are those that can't be compared.
	Roles, Further []string
	Snap           *authz.Snapshot
	// Users are for showing user names in a plan.
	Users map[int64]authz.User
}

// Check reports role names whose bindings would get the name of another binding.
func (s Settings) Check(roles []string) error {
	var errs []error
	for _, r := range roles {
		if kubename.RoleBinding(r, 0) == kubename.CIRoleBinding {
			errs = append(errs, fmt.Errorf("ClusterRole %q can't be used: its binding would have the name %q of the CI binding", r, kubename.CIRoleBinding))
		}
		if i := strings.LastIndexByte(r, '-'); i > 0 && slices.Contains(roles, r[:i]) {
			if _, err := strconv.Atoi(r[i+1:]); err == nil {
				errs = append(errs, fmt.Errorf("ClusterRole %q can't be used beside %q: their bindings would share names", r, r[:i]))
			}
		}
	}
	return errors.Join(errs...)
}

// Desired returns the objects that the cluster should hold. It is pure.
func Desired(in Input) *Wanted {
	w := &Wanted{
		Issuer: in.Snapshot.Issuer, Paths: make(map[authz.SourceID]string, len(in.Sources)),
		Untouchable: in.Untouchable, Hold: in.Snapshot.MissingAll, Users: in.Snapshot.Users,
		Roles: in.Roles, Further: in.Further, Adopt: map[string]authz.SourceID{},
		DeleteAfter: in.Settings.DeleteAfter, Now: in.Now, Snap: in.Snapshot,
	}
	if w.Untouchable == nil {
		w.Untouchable = in.Snapshot.Incomplete()
	}
	for _, a := range in.Settings.Adopt {
		w.Adopt[a.Namespace] = a.Source
	}
	granted := bySource(in.Grants, len(in.Sources))
	roles := slices.Concat(in.Roles, in.Further)
	limit := in.Settings.MaxSubjects
	if limit <= 0 {
		limit = 2000
	}
	jobs, names, there := NewDeliveries(&in), newLabels(in.Snapshot.Users, len(in.Sources)), newSharing(in.Have)
	bindings := make([]string, len(roles)) // the name of each is in memory once
	for i, role := range roles {
		bindings[i] = kubename.RoleBinding(role, 0)
	}
	w.Objects = make([]Object, 0, len(in.Sources)*(3+len(in.Roles)))
	for _, src := range in.Sources {
		w.Paths[src.ID] = src.Path
	}
	for _, home := range homes(in.Sources, in.Names) {
		src, ns, first := home.source, home.name, len(w.Objects)
		there.enter(ns)
		ci := Key{ns, KindRoleBinding, kubename.CIRoleBinding}
		w.Objects = append(w.Objects,
			Object{Key: NamespaceKey(ns), Namespace: there.namespace(NamespaceKey(ns), Namespace{
				Source: src.ID, Issuer: in.Snapshot.Issuer, CreatedAt: createdAt(src.CreatedAt), Path: Printable(src.Path),
				PodSecurity: in.Settings.standard(src.ID),
			})},
			Object{Key: AccountKey(ns)},
			Object{Key: ci, Binding: there.same(ci, jobs.binding(*src, ns))})
		w.Objects = in.Settings.Templates.add(w.Objects, values{ns, Printable(src.Path), src.ID}, in.Secrets)
		for i, role := range roles {
			rest := usersOf(granted[src.ID], role)
			if i >= len(in.Roles) && len(rest) == 0 {
				continue
			}
			for shard := 0; shard == 0 || len(rest) > 0; shard++ {
				part := rest[:min(limit, len(rest))]
				rest = rest[len(part):]
				key := Key{ns, KindRoleBinding, bindings[i]}
				if shard > 0 {
					key.Name = kubename.RoleBinding(role, shard)
				}
				w.Objects = append(w.Objects, Object{Key: key, Binding: there.binding(key, role, part, &names)})
			}
		}
		slices.SortFunc(w.Objects[first:], func(a, b Object) int { return a.Key.Compare(b.Key) })
	}
	return w
}

// home is the namespace of a source.
type home struct {
	name   string
	source *authz.Source
}

// homes returns the namespaces in order, so that of all objects only those of one namespace have to be sorted.
func homes(sources []authz.Source, names map[authz.SourceID]string) []home {
	out := make([]home, 0, len(names))
	for i := range sources {
		if name, ok := names[sources[i].ID]; ok {
			out = append(out, home{name, &sources[i]})
		}
	}
	slices.SortFunc(out, func(a, b home) int { return strings.Compare(a.name, b.name) })
	return out
}

func (s Settings) standard(id authz.SourceID) PodSecurity {
	return podSecurity(cmp.Or(s.PodSecurityFor[id], s.PodSecurity, DefaultPodSecurity))
}

// bySource finds the grants of each source, which need not stand together.
func bySource(grants []authz.Grant, sources int) map[authz.SourceID][]authz.Grant {
	out := make(map[authz.SourceID][]authz.Grant, sources)
	for i := 0; i < len(grants); {
		of, first := grants[i].Source, i
		for i < len(grants) && grants[i].Source == of {
			i++
		}
		if here := grants[first:i:i]; out[of] == nil {
			out[of] = here
		} else {
			out[of] = append(out[of], here...)
		}
	}
	return out
}

// usersOf finds the users of the binding of a role. Two grants of one role in one source are one binding.
func usersOf(grants []authz.Grant, role string) (users []int64) {
	for _, g := range grants {
		switch {
		case g.ClusterRole != role:
		case users == nil:
			users = g.Users
		default:
			users = slices.Concat(users, g.Users)
			slices.Sort(users)
			users = slices.Compact(users)
		}
	}
	return users
}

// maxMembers bounds the annotation with user names; all annotations of an object together may take 256 KiB.
const maxMembers = 4096

// memberNames lists user names for people who read a binding: "alice (2), bob (3)".
func memberNames(ids []int64, users map[int64]authz.User) string {
	l := newLabels(users, 1)
	return string(l.list(ids))
}

// labels are users in the words of memberNames, each put together once for all bindings.
type labels struct {
	users map[int64]authz.User
	known *byid.Cache[string]
	text  []byte // of the last list
}

// newLabels is for the bindings of that many sources.
func newLabels(users map[int64]authz.User, sources int) labels {
	return labels{users: users, known: byid.New[string](byid.Limit(sources, len(users)))}
}

func (l *labels) of(id int64) string {
	if s := l.known.Get(id); s != "" {
		return s
	}
	name := Printable(l.users[id].Username)
	if len(name) > 255 { // GitLab's own limit; whoever answers with more is not to fill the object
		name = Printable(name[:255])
	}
	s := name + " (" + strconv.FormatInt(id, 10) + ")"
	l.known.Set(id, s)
	return s
}

// list returns a text that is good until the next call.
func (l *labels) list(ids []int64) []byte {
	l.text = l.text[:0]
	for i, id := range ids {
		if len(l.text) > maxMembers {
			l.text = fmt.Appendf(l.text, ", and %d more", len(ids)-i)
			break
		}
		if i > 0 {
			l.text = append(l.text, ", "...)
		}
		l.text = append(l.text, l.of(id)...)
	}
	return l.text
}
