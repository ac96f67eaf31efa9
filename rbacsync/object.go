package rbacsync

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unique"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Kind is the kind of an object that is managed here.
type Kind uint8

// The managed kinds, in the order in which they are created. The Secret of the CI token is not among them: its
// content comes from the API server, so rbacsync/ci looks after it.
const (
	KindNamespace Kind = iota
	KindServiceAccount
	KindRoleBinding
	KindTemplate // an object from a template; its Key's name is "NetworkPolicy/deny-all"
)

// String returns Kubernetes' name of the kind.
func (k Kind) String() string {
	return [...]string{"Namespace", "ServiceAccount", "RoleBinding", "Template"}[k]
}

// Key names one object. Of a Namespace, Namespace and Name are the same, so that it sorts before its content.
type Key struct {
	Namespace string
	Kind      Kind
	Name      string
}

// NamespaceKey returns the Key of a Namespace.
func NamespaceKey(name string) Key { return Key{name, KindNamespace, name} }

func AccountKey(namespace string) Key {
	return Key{namespace, KindServiceAccount, kubename.CIServiceAccount}
}

// String returns "Namespace haw-world" or "RoleBinding haw-world/gitlab-edit".
func (k Key) String() string {
	if k.Kind == KindNamespace {
		return k.Kind.String() + " " + k.Name
	}
	if k.Kind == KindTemplate {
		kind, name, _ := strings.Cut(k.Name, "/")
		return kind + " " + k.Namespace + "/" + name
	}
	return k.Kind.String() + " " + k.Namespace + "/" + k.Name
}

// Compare orders keys by namespace, kind and name.
func (k Key) Compare(o Key) int {
	return cmp.Or(strings.Compare(k.Namespace, o.Namespace), cmp.Compare(k.Kind, o.Kind), strings.Compare(k.Name, o.Name))
}

// Object is what we own of one Kubernetes object: our labels and annotations in typed form, the role and the
// subjects. Labels and annotations of others are not in it and are kept by every write.
type Object struct {
	Key          Key
	Namespace    *Namespace      // of a Namespace
	Binding      *Binding        // of a RoleBinding
	FromTemplate *TemplateObject // of an object from a template
}

// Namespace is what we own of a Namespace.
type Namespace struct {
	Source      authz.SourceID // zero when the label is missing or unreadable
	Issuer      string
	CreatedAt   string // GitLab's created_at, RFC 3339 in seconds; "" when unknown
	Path        string
	PodSecurity PodSecurity
	GoneSince   string // when GitLab first said that the source is gone, RFC 3339; "" while it is there
	// Later is the format of the marks where it is one that this version does not know; "" where it is known.
	Later string
	// Wrong says, for people, which of the marks on the namespace say something else; "" in what is wanted.
	Wrong string
}

// PodSecurity is the Pod Security standard of a namespace: label suffix ("enforce", "audit-version", …) to value.
type PodSecurity struct {
	Enforce, EnforceVersion, Audit, AuditVersion, Warn, WarnVersion string
}

// The levels of Pod Security.
const (
	levelPrivileged = "privileged"
	levelBaseline   = "baseline"
	levelRestricted = "restricted"
)

// podSecurity makes a standard from the level that is enforced; the same level is audited and warned about.
func podSecurity(level string) PodSecurity {
	return PodSecurity{level, "latest", level, "latest", level, "latest"}
}

const podSecurityLabel = "pod-security.kubernetes.io/"

// Binding is what we own of a RoleBinding. The GitLab users among the subjects are kept as numbers, because an
// installation has hundreds of thousands of them.
type Binding struct {
	Role    string           // name of the ClusterRole; "Role/x" for a foreign reference
	Users   []int64          // GitLab users, ascending
	Others  []rbacv1.Subject // all other subjects, sorted
	Members string           // annotation: user names behind Users, for people
	Loss    string           // annotation: who lost the right to change things by it (loss); "" in what is wanted, and no difference
}

func (b *Binding) empty() bool { return len(b.Users) == 0 && len(b.Others) == 0 }

func (b *Binding) Same(o *Binding) bool {
	return b.Role == o.Role && b.Members == o.Members && slices.Equal(b.Users, o.Users) && slices.Equal(b.Others, o.Others)
}

func (b *Binding) has(user int64) bool {
	_, ok := slices.BinarySearch(b.Users, user)
	return ok
}

// beyond returns who is in a binding and not in the other one.
func (b *Binding) beyond(o *Binding) (users []int64, others []rbacv1.Subject) {
	others = slices.DeleteFunc(slices.Clone(b.Others), func(s rbacv1.Subject) bool { return slices.Contains(o.Others, s) })
	return minus(b.Users, o.Users), others
}

// with returns the binding with further people, in the place of the live one. If these are who is in it already, their names
// stay: no write for a name alone.
func (b Binding) with(further []int64, live *Binding, users map[int64]authz.User) *Binding {
	b.Users = slices.Compact(slices.Sorted(slices.Values(slices.Concat(b.Users, further))))
	if b.Members = memberNames(b.Users, users); slices.Equal(b.Users, live.Users) {
		b.Members = live.Members
	}
	return &b
}

// minus returns what is in the first of two ascending lists and not in the other one.
func minus(list, other []int64) (out []int64) {
	for _, x := range list {
		for len(other) > 0 && other[0] < x {
			other = other[1:]
		}
		if len(other) > 0 && other[0] == x {
			other = other[1:]
			continue
		}
		out = append(out, x)
	}
	return out
}

// Subjects returns the list as the API server wants it: sorted, never with a name outside kubename's.
func (b *Binding) Subjects() []rbacv1.Subject {
	out := make([]rbacv1.Subject, 0, len(b.Users)+len(b.Others))
	for _, id := range b.Users {
		out = append(out, userSubject(kubename.User(id)))
	}
	return append(out, b.Others...)
}

func userSubject(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}
}

// BindingOf reads a RoleBinding's role and subjects into our form.
func BindingOf(ref rbacv1.RoleRef, subjects []rbacv1.Subject, members string) *Binding {
	b := &Binding{Role: unique.Make(ref.Name).Value(), Members: members} // few roles have many bindings
	if ref.Kind != "ClusterRole" {
		b.Role = ref.Kind + "/" + ref.Name
	}
	for _, s := range subjects {
		if id, ok := kubename.ParseUser(s.Name); ok && s == userSubject(s.Name) {
			if b.Users == nil {
				b.Users = make([]int64, 0, len(subjects))
			}
			b.Users = append(b.Users, id)
			continue
		}
		b.Others = append(b.Others, s)
	}
	slices.Sort(b.Users)
	sortSubjects(b.Others)
	return b
}

func sortSubjects(s []rbacv1.Subject) {
	slices.SortFunc(s, func(a, b rbacv1.Subject) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.APIGroup, b.APIGroup),
			strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
}

// Labels returns the labels we own on the object. An empty value means that the label should not be there.
func (o *Object) Labels() map[string]string {
	out := map[string]string{kubename.LabelManagedBy: kubename.ManagedBy}
	if o.Namespace != nil {
		out[kubename.LabelSource] = markOf(o.Namespace.Source)
		for suffix, field := range o.Namespace.PodSecurity.fields() {
			out[podSecurityLabel+suffix] = *field
		}
	}
	return out
}

// Annotations returns the annotations we own on the object. An empty value means that it should not be there.
func (o *Object) Annotations() map[string]string {
	out := map[string]string{}
	if o.Namespace != nil {
		out[kubename.AnnotationSource] = markOf(o.Namespace.Source)
		out[kubename.AnnotationIssuer] = o.Namespace.Issuer
		out[kubename.AnnotationCreatedAt] = o.Namespace.CreatedAt
		out[kubename.AnnotationPath] = o.Namespace.Path
		out[kubename.AnnotationGoneSince] = o.Namespace.GoneSince
	}
	if o.Binding != nil {
		out[kubename.AnnotationMembers] = o.Binding.Members
		if o.Binding.Loss != "" { // else it stays as it is
			out[kubename.AnnotationLoss] = o.Binding.Loss
		}
	}
	return out
}

func (p *PodSecurity) fields() map[string]*string {
	return map[string]*string{
		"enforce": &p.Enforce, "enforce-version": &p.EnforceVersion, "audit": &p.Audit,
		"audit-version": &p.AuditVersion, "warn": &p.Warn, "warn-version": &p.WarnVersion,
	}
}

// markOf is a source as the marks of its namespace name it, "" for none.
func markOf(id authz.SourceID) string {
	if id == (authz.SourceID{}) {
		return ""
	}
	return id.Label()
}

// NamespaceOf reads a Namespace's labels and annotations into our form. Where label and annotation name two sources, it has
// neither, and both are returned. Of marks in a later format nothing is believed: all that it may belong to are returned.
func NamespaceOf(labels, annotations map[string]string) (s *Namespace, doubt []authz.SourceID) {
	s = &Namespace{
		Issuer:    unique.Make(annotations[kubename.AnnotationIssuer]).Value(), // most often one for all
		CreatedAt: annotations[kubename.AnnotationCreatedAt],
		Path:      annotations[kubename.AnnotationPath],
		GoneSince: annotations[kubename.AnnotationGoneSince],
	}
	label, ok := authz.ParseLabel(labels[kubename.LabelSource])
	again, okAgain := authz.ParseLabel(annotations[kubename.AnnotationSource])
	format, written := annotations[kubename.AnnotationFormat]
	if n, err := strconv.Atoi(format); written && (err != nil || n < 1 || n > kubename.MarkFormat) {
		s.Later = cmp.Or(format, `""`)
	}
	switch {
	case s.Later != "":
		for _, id := range []authz.SourceID{label, again} {
			if id != (authz.SourceID{}) && !slices.Contains(doubt, id) {
				doubt = append(doubt, id)
			}
		}
	case ok && okAgain && label != again:
		doubt = []authz.SourceID{label, again}
		s.Wrong = fmt.Sprintf("by its label it belongs to %s, by its annotation to %s", label, again)
	case ok && !okAgain:
		s.Source, s.Wrong = label, fmt.Sprintf("annotation %s %q", kubename.AnnotationSource, annotations[kubename.AnnotationSource])
	case okAgain && !ok:
		s.Source, s.Wrong = again, fmt.Sprintf("label %s %q", kubename.LabelSource, labels[kubename.LabelSource])
	default:
		s.Source = label
	}
	for suffix, field := range s.PodSecurity.fields() {
		*field = labels[podSecurityLabel+suffix]
	}
	return s, doubt
}

// Live is an object with our owner mark as it is in the cluster.
type Live struct {
	Object
	UID             types.UID
	ResourceVersion string
	Born            int64 // creation time in seconds, of a Namespace
	Deleting        bool
	Bare            bool             // a RoleBinding that has nothing but what is ours: it can be written as a whole
	Known           bool             // of a Namespace: it is the one that was known as its source's before (Identify)
	Doubt           []authz.SourceID // of a Namespace: it may be one of theirs; it is left as it is, and they get no other one
}

// Observed is what the cluster holds: the objects with our mark, and what stands in our way without it.
type Observed struct {
	Live []*Live
	// Foreign holds every namespace without our mark, and objects without our mark that have a name of ours.
	Foreign map[Key]bool
	// Unmarked are the namespaces among Foreign that have other labels or annotations of ours.
	Unmarked []*Live
	// NoTemplates says that objects from templates were not read: a plan says nothing about them.
	NoTemplates bool
	Secrets     map[string]map[string]any // the data of those that templates copy, by name
	Findings    []authz.Finding           // what could not be read, or is missing
}

// Names returns which source has which namespace already, and all other namespaces of the cluster: those without
// our mark, of another GitLab, with an unreadable mark, and copies. When several namespaces claim one source, the real
// one is that which was known before, else the oldest, because a copy (say, a restored backup) is made later.
func (o *Observed) Names(issuer string) (have map[authz.SourceID]string, taken map[string]bool) {
	have, taken = map[authz.SourceID]string{}, map[string]bool{}
	for k := range o.Foreign {
		if k.Kind == KindNamespace {
			taken[k.Name] = true
		}
	}
	best := map[authz.SourceID]*Live{}
	for _, l := range o.Live {
		if l.Namespace == nil {
			continue
		}
		if l.Namespace.Issuer != issuer || l.Namespace.Source == (authz.SourceID{}) || len(l.Doubt) > 0 {
			taken[l.Key.Name] = true
			continue
		}
		old := best[l.Namespace.Source]
		if old != nil && (old.Known || !l.Known && cmp.Or(cmp.Compare(old.Born, l.Born), strings.Compare(old.Key.Name, l.Key.Name)) < 0) {
			old, l = l, old
		}
		if old != nil {
			taken[old.Key.Name] = true
		}
		best[l.Namespace.Source] = l
	}
	for id, l := range best {
		have[id] = l.Key.Name
	}
	return have, taken
}

// With returns what the cluster would hold after these changes.
func (o *Observed) With(changes []Change) *Observed {
	after := &Observed{Foreign: o.Foreign, Unmarked: o.Unmarked, NoTemplates: o.NoTemplates, Secrets: o.Secrets}
	changed := make(map[Key]bool, len(changes))
	for _, c := range changes {
		changed[c.Key] = true
		if c.New == nil {
			continue
		}
		l := new(Live)
		if c.Old != nil {
			*l = *c.Old
		}
		l.Object, l.Doubt = *c.New, nil
		if l.FromTemplate != nil {
			x := *l.FromTemplate
			x.Verified, l.FromTemplate = x.Hash, &x
		}
		after.Live = append(after.Live, l)
	}
	for _, l := range o.Live {
		if !changed[l.Key] {
			after.Live = append(after.Live, l)
		}
	}
	slices.SortFunc(after.Live, func(a, b *Live) int { return a.Key.Compare(b.Key) })
	return after
}

// createdAt writes GitLab's created_at in whole seconds: GitLab's two APIs differ in their fractions.
func createdAt(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

// Printable makes text that GitLab users chose fit for an annotation or a line of output: one line of valid
// UTF-8 without control or formatting characters. (Invalid UTF-8 would come back changed from the API server,
// which would look like drift for ever.)
func Printable(s string) string {
	if plain(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// plain reports whether a text is printable ASCII, as nearly all of them are.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// sortedKeys returns the keys of a map in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
