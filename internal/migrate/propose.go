package migrate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Origin is who made a namespace before.
type Origin string

// The origins.
const (
	Integrator2018 Origin = "2018"        // the integrator of 2018
	Certificate    Origin = "certificate" // GitLab's certificate integration
)

// Input is what is read of GitLab and the cluster. It is read only.
type Input struct {
	From       []Origin // which of them are looked for
	Namespaces []corev1.Namespace
	Bindings   []rbacv1.RoleBinding
	Accounts   []corev1.ServiceAccount
	Foreign    map[rbacsync.Key]bool // what has a name of ours and not our mark (rbacsync.Observed)
	Known      map[authz.SourceID]string
	Snapshot   *authz.Snapshot
	Policy     authz.Policy
	Reserved   []string // authz.reservedNames
	Adopt      []Entry  // rbacsync.adopt, as it is: what a person has decided
	Account    string   // of CI jobs in the integrator of 2018; "" is AccountName
	Now        time.Time
}

// Entry is one of rbacsync.adopt.
type Entry struct {
	Namespace string `json:"namespace"`
	Source    string `json:"source"`
	Path      string `json:"path,omitempty"`
}

// Item is a namespace that one of the origins made.
type Item struct {
	Namespace string   `json:"namespace"`
	From      []Origin `json:"from"`
	Entries   []Entry  `json:"entries,omitempty"` // those that come into question; of a proposed one exactly one
	Reasons   []Reason `json:"reasons,omitempty"` // why a person has to decide
	Notes     []Reason `json:"notes,omitempty"`

	sources []authz.SourceID
	settled bool   // what is known of this namespace alone says that it is that of one source
	plain   string // its name without the number
}

// Result is what Propose found. All lists are sorted by namespace.
type Result struct {
	Proposed, Decide []Item
	Configured       []Entry // what the configuration has already
	Ours             int     // namespaces of an origin that belong to their source already
	Found            map[Origin]int
	Leftovers        []Leftover
}

// clockDifference is how much the clocks of GitLab and the cluster may differ where two times are compared.
const clockDifference = 5 * time.Minute

// Propose says which namespace may be given to whom, and what stands against it.
func Propose(in Input) Result {
	p := &proposer{
		inventory:  inventory{in: in, paths: newPaths(in.Snapshot), objects: newObjects(&in), at: map[string]*corev1.Namespace{}},
		incomplete: in.Policy.Untouchable(in.Snapshot),
	}
	r := Result{Found: map[Origin]int{}, Configured: in.Adopt}
	configured := map[string]bool{}
	for _, e := range in.Adopt {
		configured[e.Namespace] = true
	}
	var items []*Item
	covered := map[string]authz.SourceID{} // whose leftovers are listed
	for i := range in.Namespaces {
		p.at[in.Namespaces[i].Name] = &in.Namespaces[i]
	}
	for i := range in.Namespaces {
		ns := &in.Namespaces[i]
		it := p.item(ns)
		if it == nil {
			continue
		}
		for _, o := range it.From {
			if slices.Contains(in.From, o) {
				r.Found[o]++
			}
		}
		source, ours := p.ours(ns)
		switch {
		case ours && !p.shown(it):
		case ours:
			r.Ours++
			covered[ns.Name] = source
		case configured[ns.Name]:
		default:
			items = append(items, it)
		}
	}
	for _, e := range in.Adopt {
		if id, ok := authz.ParseLabel(strings.Replace(e.Source, "/", "-", 1)); ok {
			covered[e.Namespace] = id
		}
	}
	p.compare(items)
	for _, it := range items {
		if !p.shown(it) {
			continue
		}
		for _, id := range it.sources {
			path, _ := in.Snapshot.Path(id)
			it.Entries = append(it.Entries, Entry{it.Namespace, id.String(), path})
		}
		if len(it.Reasons) > 0 || len(it.Entries) != 1 {
			r.Decide = append(r.Decide, *it)
			continue
		}
		it.Notes = append(it.Notes, p.notes(it.Namespace)...)
		covered[it.Namespace] = it.sources[0]
		r.Proposed = append(r.Proposed, *it)
	}
	for _, list := range [][]Item{r.Proposed, r.Decide} {
		slices.SortFunc(list, func(a, b Item) int { return strings.Compare(a.Namespace, b.Namespace) })
	}
	r.Leftovers = p.leftovers(covered)
	return r
}

type proposer struct {
	inventory
	incomplete map[authz.SourceID]string
}

// shown reports whether an item is of an origin that is asked about. All are weighed, since the others' speak against it, too.
func (p *proposer) shown(it *Item) bool {
	return slices.ContainsFunc(it.From, func(o Origin) bool { return slices.Contains(p.in.From, o) })
}

// ours reports whether a namespace belongs to a source of this GitLab already.
func (p *proposer) ours(ns *corev1.Namespace) (authz.SourceID, bool) {
	if ns.Labels[kubename.LabelManagedBy] != kubename.ManagedBy {
		return authz.SourceID{}, false
	}
	x, doubt := rbacsync.NamespaceOf(ns.Labels, ns.Annotations)
	return x.Source, len(doubt) == 0 && x.Source != authz.SourceID{} && x.Issuer == p.in.Snapshot.Issuer
}

// item says by one namespace alone whose it may be; nil if no origin made it.
func (p *proposer) item(ns *corev1.Namespace) *Item {
	it := &Item{Namespace: ns.Name}
	var old, managed []authz.SourceID
	_, labelled := ns.Labels[LabelOrigin]
	_, ignored := ns.Labels[LabelIgnored]
	if labelled || ignored {
		it.From = append(it.From, Integrator2018)
		old = p.byLabel(it, ns, labelled, ignored)
	}
	if p.objects.certificate(ns) {
		it.From = append(it.From, Certificate)
		managed = p.byName(it, ns)
	}
	if len(it.From) == 0 {
		return nil
	}
	it.sources = slices.Clone(old)
	for _, id := range managed {
		if !slices.Contains(it.sources, id) {
			it.sources = append(it.sources, id)
		}
	}
	slices.SortFunc(it.sources, authz.SourceID.Compare)
	if len(it.From) == 2 && !slices.Equal(old, managed) {
		it.against(BothOrigins, "the integrator of 2018 and GitLab's certificate integration have both been here, and do not say the same")
	}
	it.settled = len(it.Reasons) == 0 && len(it.sources) == 1
	p.namespace(it, ns)
	return it
}

func (it *Item) against(code Code, format string, args ...any) {
	it.Reasons = append(it.Reasons, because(code, format, args...))
}

// maxDecoded is how many ways of reading a label are told.
const maxDecoded = 4

// byLabel finds whose a namespace of the integrator of 2018 is.
func (p *proposer) byLabel(it *Item, ns *corev1.Namespace, labelled, ignored bool) []authz.SourceID {
	if ignored {
		it.against(Ignored, "it has the label %s: the old service was told to leave it alone", LabelIgnored)
	}
	if !labelled {
		return nil
	}
	label := ns.Labels[LabelOrigin]
	found := slices.Clone(p.paths.byLabel[label])
	ways := Decode(label, maxDecoded)
	if len(ways) > 1 {
		it.against(AmbiguousLabel, "the label %s=%s stands for several paths (%s), and does not say which", LabelOrigin, label, strings.Join(ways, ", "))
	}
	if len(found) == 0 {
		if found = slices.Clone(p.paths.byLower[strings.ToLower(label)]); len(found) > 0 {
			it.against(CaseDiffers, "GitLab writes the path in the label %s=%s with other capital letters", LabelOrigin, label)
		} else {
			it.against(SourceGone, "nothing in GitLab has the path in the label %s=%s (%s): it was deleted, renamed or moved since, or somebody else has set the label",
				LabelOrigin, label, cmp.Or(strings.Join(ways, ", "), "no path at all"))
		}
	}
	for _, id := range found {
		path, _ := p.in.Snapshot.Path(id)
		name, ok := OldName(path)
		rest, begins := strings.CutPrefix(ns.Name, name)
		switch {
		case ok && rest == "" && begins:
		case ok && begins && counter.MatchString(rest) && p.anothers(name, id):
			it.plain = name
			it.Notes = append(it.Notes, because(Suffixed, "it has a number because the namespace %s was another one's", name))
		default:
			it.against(NameDiffers, "the old service would not have given this name to %s (%s), of which the label %s speaks: somebody else may have set the label", id, path, LabelOrigin)
		}
	}
	return found
}

// anothers reports whether a namespace was given by the integrator of 2018 to somebody else than id.
func (p *proposer) anothers(name string, id authz.SourceID) bool {
	ns := p.at[name]
	if ns == nil {
		return false
	}
	owners := p.paths.byLabel[ns.Labels[LabelOrigin]]
	return len(owners) > 0 && !slices.Contains(owners, id)
}

// byName finds whose a namespace of the certificate integration is.
func (p *proposer) byName(it *Item, ns *corev1.Namespace) []authz.SourceID {
	ways := parts(ns.Name)
	if len(ways) == 0 {
		it.against(UnknownNamespace, "its name is not of the form <path>-<id>-<environment>: it was configured by hand")
		return nil
	}
	var agree, renamed []authz.SourceID
	app, labelled := ns.Labels[LabelApp]
	env := ns.Labels[LabelEnv]
	certain := false // by the labels
	for _, w := range ways {
		id := authz.ProjectID(w.project)
		project, ok := p.in.Snapshot.Projects[w.project]
		switch {
		case !ok:
		case sanitized(project.Path[strings.LastIndexByte(project.Path, '/')+1:]) != w.path:
			renamed = append(renamed, id)
		default:
			agree = append(agree, id)
			certain = labelled && app == slug(project.Path) && env == w.environment
			if labelled && !certain {
				it.against(LabelDiffers, "its labels %s=%s and %s=%s are not those of %s (%s): that was renamed or moved, or somebody else has set the labels", LabelApp, app, LabelEnv, env, id, project.Path)
			}
		}
	}
	all := slices.Concat(agree, renamed)
	switch {
	case len(all) == 0:
		it.against(SourceGone, "GitLab has no project with the id in the name")
	case len(agree) > 1 || len(agree) == 1 && len(ways) > 1 && !certain:
		it.against(AmbiguousName, "its name can be read in several ways: %s", listed(ways))
	case len(agree) == 1:
		return agree
	case len(renamed) > 0:
		it.against(Renamed, "the path in the name is not that of the project with this id: it was renamed, or somebody else has made the namespace")
	}
	return all
}

func listed(ways []part) string {
	var out []string
	for _, w := range ways {
		out = append(out, fmt.Sprintf("project %d with the path %s", w.project, w.path))
	}
	return strings.Join(out, "; ")
}

// namespace looks for what stands in the way in the namespace and its sources, whoever made it.
func (p *proposer) namespace(it *Item, ns *corev1.Namespace) {
	x, doubt := rbacsync.NamespaceOf(ns.Labels, ns.Annotations)
	manager := ns.Labels[kubename.LabelManagedBy]
	switch {
	case x.Source != authz.SourceID{} || len(doubt) > 0 || x.Issuer != "" || x.CreatedAt != "":
		it.against(MarkedAlready, "it has labels or annotations of this program, of %s of %q: take them off first if they are wrong", x.Source, x.Issuer)
	case manager != "" && manager != kubename.ManagedBy:
		it.against(OtherManager, "the label %s=%s says that another program looks after it, and our mark would replace that", kubename.LabelManagedBy, manager)
	}
	if ns.DeletionTimestamp != nil || ns.Status.Phase == corev1.NamespaceTerminating {
		it.against(Terminating, "it is being deleted")
	}
	if why := p.reserved(ns.Name); why != "" {
		it.against(ReservedName, "the name is given to nobody: %s", why)
	}
	for _, id := range it.sources {
		path, _ := p.in.Snapshot.Path(id)
		src, gets := p.in.Policy.Source(p.in.Snapshot, id)
		if why := p.incomplete[id]; why != "" {
			it.against(UnreadSource, "GitLab could not be read about %s (%s): %s", id, path, why)
		}
		if !gets {
			it.against(LeftOut, "by the configuration %s (%s) gets no namespace (authz.kinds, authz.exclude), or the account is not active", id, path)
			continue
		}
		if name := p.in.Known[id]; name != "" && name != ns.Name {
			it.against(HasNamespace, "%s (%s) has the namespace %s of this program already", id, path, name)
		}
		if id.Kind == authz.UserSource { // people rename themselves as they like, and take a name that somebody has left
			it.settled = false
			it.against(PersonalNamespace, "it is a personal one, and %s (%s) may not be who had this name in GitLab when it was made", id, path)
		}
		born := ns.CreationTimestamp.Time
		if src.CreatedAt.IsZero() || born.IsZero() {
			it.settled = false
			it.against(UnknownAge, "it is not known whether it is older than %s (%s): then somebody else had this path, and what is in it may be theirs", id, path)
		} else if born.Add(clockDifference).Before(src.CreatedAt) {
			it.settled = false
			it.against(OlderThanSource, "it was made on %s, before %s (%s) was made in GitLab on %s: somebody else had this path then, and what is in it may be theirs",
				born.UTC().Format(time.RFC3339), id, path, src.CreatedAt.UTC().Format(time.RFC3339))
		}
	}
}

func (p *proposer) reserved(name string) string {
	if name == "gl-k8s-integrator" || strings.HasPrefix(name, "kube-") || authz.NormalizePath(name) != name {
		return "it belongs to the cluster"
	}
	if why := authz.Reserved(name); why != "" {
		return why
	}
	for _, r := range p.in.Reserved {
		begin, any := strings.CutSuffix(r, "*")
		begin = authz.NormalizePath(begin)
		if begin == name || any && strings.HasPrefix(name, begin) {
			return "authz.reservedNames has " + r
		}
	}
	return ""
}

// compare looks for what stands against namespaces because of others.
func (p *proposer) compare(items []*Item) {
	claims, home := map[authz.SourceID][]string{}, map[authz.SourceID]bool{}
	for id := range p.in.Known {
		home[id] = true
	}
	for _, e := range p.in.Adopt {
		if id, ok := authz.ParseLabel(strings.Replace(e.Source, "/", "-", 1)); ok {
			home[id] = true
			for _, it := range items {
				if slices.Contains(it.sources, id) {
					it.against(DecidedElsewhere, "by rbacsync.adopt of the configuration %s gets the namespace %s", id, e.Namespace)
				}
			}
		}
	}
	for _, it := range items {
		if _, ignored := p.at[it.Namespace].Labels[LabelIgnored]; !ignored {
			for _, id := range it.sources {
				claims[id] = append(claims[id], it.Namespace)
			}
		}
	}
	for _, it := range items {
		for _, id := range it.sources {
			if names := claims[id]; len(names) > 1 && slices.Contains(names, it.Namespace) {
				path, _ := p.in.Snapshot.Path(id)
				it.settled = false
				it.against(SeveralNamespaces, "%s (%s) has several namespaces, and can keep one: %s", id, path, strings.Join(slices.Sorted(slices.Values(names)), ", "))
			}
		}
	}
	p.shared(items, home)
}

// shared reports namespaces whose name others have, too, by the rules of 2018, and who have no other one: whoever came last had it,
// with all that was in it. Labels alone prove nothing, so those who share a name are believed together or not at all: one that is in
// doubt takes with it the plain name, and that takes all with a number.
func (p *proposer) shared(items []*Item, home map[authz.SourceID]bool) {
	items = slices.DeleteFunc(slices.Clone(items), func(it *Item) bool { return !slices.Contains(it.From, Integrator2018) })
	certain, before := map[string]*Item{}, maps.Clone(home)
	for _, it := range items {
		if it.settled {
			certain[it.Namespace] = it
			home[it.sources[0]] = true
		}
	}
	decided := map[string]bool{}
	for _, name := range p.in.Known {
		decided[name] = true
	}
	for _, e := range p.in.Adopt {
		decided[e.Namespace] = true
	}
	others := func(it *Item) (out []authz.SourceID) {
		for _, id := range p.paths.byName[it.Namespace] {
			if !home[id] && !slices.Contains(it.sources, id) {
				out = append(out, id)
			}
		}
		return out
	}
	vague := func(it *Item) bool { return it.plain != "" && certain[it.plain] == nil && !decided[it.plain] }
	for more := true; more; {
		more = false
		for _, it := range items {
			if certain[it.Namespace] != nil && (vague(it) || len(others(it)) > 0) {
				delete(certain, it.Namespace)
				if !before[it.sources[0]] {
					delete(home, it.sources[0])
				}
				more = true
			}
		}
	}
	for _, it := range items {
		if vague(it) {
			it.against(SharedName, "it has a number because the namespace %s was another one's, and it is not certain whose that is", it.plain)
		}
	}
	for _, it := range items {
		list := others(it)
		if len(list) == 0 {
			continue
		}
		slices.SortFunc(list, authz.SourceID.Compare)
		var names []string
		for i, id := range list {
			if i == maxShared {
				names = append(names, fmt.Sprintf("%d more", len(list)-i))
				break
			}
			path, _ := p.in.Snapshot.Path(id)
			names = append(names, fmt.Sprintf("%s (%s)", id, path))
		}
		it.against(SharedName, "the old service gave this name also to %s: whoever came last took it over, with what was in it", strings.Join(names, ", "))
	}
}

// maxShared is how many others are named that a namespace may belong to.
const maxShared = 5

// notes tells what to know of a namespace that is proposed.
func (p *proposer) notes(ns string) (out []Reason) {
	var inTheWay []string
	for _, k := range slices.SortedFunc(maps.Keys(p.in.Foreign), rbacsync.Key.Compare) {
		if k.Namespace == ns && k.Kind != rbacsync.KindNamespace {
			inTheWay = append(inTheWay, k.String())
		}
	}
	if len(inTheWay) > 0 {
		out = append(out, because(CIInTheWay, "CI jobs go on with their old token: a new one comes once these are deleted, which have a name of ours and not our mark: %s", strings.Join(inTheWay, ", ")))
	}
	if p.objects.accounts[ns][netAdminAccount] {
		out = append(out, because(NetAdmin, "the ServiceAccount %s may do more than Pod Security allows: new pods of it are refused unless rbacsync.podSecurityExceptions has an entry", netAdminAccount))
	}
	return out
}
