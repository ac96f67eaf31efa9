package authz

import (
	"fmt"
	"slices"
	"time"
)

// Code is what an Explanation says, for programs.
type Code string

// The codes.
const (
	CodeAllowed         Code = "allowed"         // it is allowed by what is in the cluster, for all that is known here
	CodeKept            Code = "kept"            // it is allowed by what is in the cluster still, and GitLab does not give it
	CodeNotInCluster    Code = "notInCluster"    // GitLab gives what allows it, or could, and the cluster has it not
	CodeLevel           Code = "levelTooLow"     // another level in GitLab would allow it
	CodeNoLevel         Code = "noLevelAllows"   // no level there would
	CodeFrozen          Code = "frozen"          // it is archived or marked for deletion
	CodeRulesUnread     Code = "rulesUnread"     // what ClusterRoles allow was not read
	CodeNoMember        Code = "noMember"        // of the source of the namespace, or there is none
	CodeSourceExcluded  Code = "sourceExcluded"  // authz leaves the source out
	CodeAccountUnknown  Code = "accountUnknown"  // it was not read
	CodeAccountInactive Code = "accountInactive" // blocked, deactivated, …
	CodeAccountExcluded Code = "accountExcluded" // authz leaves the person out
	CodeNotHuman        Code = "noPerson"        // a bot or service account
	CodeClusterWide     Code = "clusterWide"     // it is about no namespace
)

// Explanation says all about one request of somebody: it is for administrators. ForUser is what they themself may hear.
type Explanation struct {
	UserID    int64     `json:"userID"`
	Username  string    `json:"username,omitempty"` // empty if the account is not known
	State     UserState `json:"state,omitempty"`
	Namespace string    `json:"namespace,omitempty"`
	Source    string    `json:"source,omitempty"`  // "project/10"; empty if the namespace belongs to nothing in GitLab
	Path      string    `json:"path,omitempty"`    // of Source in GitLab
	Request   string    `json:"request,omitempty"` // "get pods/log"; empty: any right
	// Allowed is whether what this program has written into the cluster allows it, by what is known here. Without a verb in
	// Request: whether there is a right at all.
	Allowed Verdict `json:"allowed"`
	Code    Code    `json:"code"`
	// Sentence is fit for the person, and where it is about a namespace for whoever can ask about them there (docs/adr/0080).
	Sentence string `json:"sentence"`
	// Trail is how they are a member of Source; nil if they are none.
	Trail *Trail `json:"trail,omitempty"`
	// Roles are what GitLab gives them there, strongest first.
	Roles []GivenRole `json:"roles,omitempty"`
	// Kept are what they still have in the cluster, and GitLab does not give them; Why says why.
	Kept []GivenRole `json:"kept,omitempty"`
	// Ask are user names of members who may do it.
	Ask []string `json:"ask,omitempty"`
	// Near is what would have given them more, and why it does not.
	Near []string `json:"near,omitempty"`
	// Remedies are what would help, all of them together, in this order. None: it is allowed, or it is not known.
	Remedies []Remedy `json:"remedies,omitempty"`
}

// GivenRole is a ClusterRole that GitLab gives somebody in a namespace.
type GivenRole struct {
	ClusterRole string  `json:"clusterRole"`
	Absent      Absence `json:"absent,omitempty"` // why it is not in the cluster; "" if it is there
	Why         string  `json:"why,omitempty"`    // Absent in words
	Allows      Verdict `json:"allows"`           // the request
	// Extra is what an extra mapping gives it by, in words; empty: the level does.
	Extra string `json:"extra,omitempty"`
}

// Answer is what somebody who has proved who they are may hear of their own request.
type Answer struct {
	Allowed  Verdict `json:"allowed"`
	Code     Code    `json:"code"`
	Sentence string  `json:"sentence"`
	// Trail is how they are a member there; empty if they are none.
	Trail []string `json:"trail,omitempty"`
	Ask   []string `json:"ask,omitempty"`
}

// ForUser returns what the person themself may hear. Of a namespace they are no member of and have no right in it is the same
// whoever they are, and whether or not it exists.
func (e Explanation) ForUser() Answer {
	a := Answer{Allowed: e.Allowed, Code: e.Code, Sentence: e.Sentence, Ask: e.Ask}
	if e.Trail != nil {
		a.Trail = []string{ToUser(e.Trail.Text)}
	}
	return a
}

// Answer is Explain for the person themself. It looks for nothing that they may not hear, so also its time tells nothing of it.
func (v View) Answer(user int64, q Question, now time.Time) Answer {
	r := &refusal{v: v, q: q, now: now}
	return r.explanation(user).ForUser()
}

// Explain says whether somebody may do something, and why: all of it, for administrators.
func (v View) Explain(user int64, q Question, now time.Time) Explanation {
	r := &refusal{v: v, q: q, now: now}
	e := r.explanation(user)
	id, managed := v.Source[q.Namespace]
	switch {
	case q.Namespace == "":
	case !managed:
		e.Near = whose(v, q.Namespace)
	case e.Code != CodeAllowed:
		n := newNearby(v, user, id, now)
		e.Near = n.misses()
		if e.Allowed != Yes {
			e.Remedies = n.remedies(r, e.Roles)
		}
	}
	return e
}

// explanation is Explain without what would have given more, and what helps.
func (r *refusal) explanation(user int64) Explanation {
	v := r.v
	e := Explanation{UserID: user, Namespace: r.q.Namespace, Sentence: r.user(user)}
	e.Code, e.Ask = r.code, r.asked
	if r.q.Verb != "" {
		e.Request = r.q.what()
	}
	u, known := v.Snapshot.Users[user]
	e.Username, e.State = u.Username, u.State
	id, managed := v.Source[r.q.Namespace]
	if !managed {
		return e
	}
	e.Source = id.String()
	e.Path, _ = v.Snapshot.Path(id)
	if t, member := v.Trail(user, id, r.now); member {
		e.Trail = &t
	}
	if known && v.Policy.MayHaveRights(u) {
		e.Roles = r.given(id, user)
	}
	for _, k := range v.gaps[id].kept(user) {
		if !v.gone[k.ClusterRole] {
			e.Kept = append(e.Kept, GivenRole{ClusterRole: k.ClusterRole, Allows: r.allow(k.ClusterRole), Why: k.Why.Stays()})
		}
	}
	given := allowedBy(e.Roles)
	switch e.Allowed = max(given, allowedBy(e.Kept)); {
	case given == Yes:
		e.Code, e.Sentence, e.Ask = CodeAllowed, r.allowed(e), nil
	case e.Allowed == Yes:
		e.Code, e.Sentence, e.Ask = CodeKept, r.kept(e), nil
	case slices.ContainsFunc(e.Roles, func(g GivenRole) bool { return g.Allows == Unknown && g.Absent == "" }):
		// The webhook knows that it was refused; here it is not known.
		e.Code, e.Ask = CodeRulesUnread, nil
		e.Sentence = fmt.Sprintf("whether you may %s here%s is not known: what a ClusterRole allows was not read. Try again in a minute.", r.q.what(), r.as(e))
	}
	return e
}

// given returns what GitLab gives somebody in a source, whose account may have rights.
func (r *refusal) given(id SourceID, user int64) []GivenRole {
	src, ok := r.v.Policy.Source(r.v.Snapshot, id)
	if !ok {
		return nil
	}
	only := resolverOf(user, r.v.Snapshot, r.now)
	level := only.Members(id).Level(user)
	var out []GivenRole
	r.v.Policy.each(only, src, func(role string, _ standing) {
		if slices.ContainsFunc(out, func(g GivenRole) bool { return g.ClusterRole == role }) {
			return
		}
		g := GivenRole{ClusterRole: role, Absent: r.v.absent(id, role, user), Allows: r.allow(role)}
		if g.Absent != "" {
			g.Why = r.v.notYet(id, g.Absent)
		}
		if role != r.v.Policy.RoleIn(r.v.Snapshot, id, level) {
			g.Extra = r.v.Policy.extraWords(only, id, role)
		}
		out = append(out, g)
	}, func(standing) {})
	slices.SortFunc(out, func(a, b GivenRole) int { return r.v.rank[a.ClusterRole] - r.v.rank[b.ClusterRole] })
	return out
}

// extraWords says which extra mapping gives somebody a role in a source. The Resolver sees them alone.
func (p Policy) extraWords(r *Resolver, id SourceID, role string) string {
	for _, e := range p.extra {
		if e.ClusterRole != role || !e.covers(r.snap, id) || len(e.of(r, id)) == 0 {
			continue
		}
		if e.Group == 0 {
			return "authz.extra gives it to " + levels(e.Levels) + " there"
		}
		path, _ := r.snap.Path(GroupID(e.Group))
		return "authz.extra gives it to members of the group " + clean(path)
	}
	return ""
}

// allowedBy returns what these roles allow together, as far as they are in the cluster.
func allowedBy(roles []GivenRole) Verdict {
	out := No
	for _, g := range roles {
		if g.Absent == AbsentUnknown {
			out = max(out, min(g.Allows, Unknown))
			continue
		}
		if g.Absent == "" {
			out = max(out, g.Allows)
		}
	}
	return out
}

// allowed says to somebody why they may do it.
func (r *refusal) allowed(e Explanation) string {
	i := slices.IndexFunc(e.Roles, func(g GivenRole) bool { return g.Allows == Yes && g.Absent == "" })
	return r.may(e.Roles[i].ClusterRole) + r.as(e) + "."
}

// kept says to somebody why they still may do it.
func (r *refusal) kept(e Explanation) string {
	i := slices.IndexFunc(e.Kept, func(g GivenRole) bool { return g.Allows == Yes })
	return r.may(e.Kept[i].ClusterRole) + r.as(e) + ", which GitLab does not give you."
}

func (r *refusal) may(role string) string {
	if r.q.Verb == "" {
		return fmt.Sprintf("you have %s here", quoted([]string{role}))
	}
	return fmt.Sprintf("you may %s here by %s", r.q.what(), quoted([]string{role}))
}

func (r *refusal) as(e Explanation) string {
	if e.Trail == nil {
		return ""
	}
	return fmt.Sprintf(" (you are %s in %s)", e.Trail.Level, clean(e.Path))
}
