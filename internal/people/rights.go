package people

import (
	"slices"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// right is what a user has, or by GitLab should have, in one namespace.
type right struct {
	Namespace    string
	Source       authz.SourceID
	ClusterRoles []string
	Absent       authz.Absence
}

// trail is how a user comes to their level in a source.
type trail struct {
	Path  string
	Level authz.Level
	Until authz.Date
	Text  string
}

// rightsOf returns a user's rights by namespace.
func rightsOf(v authz.View, user int64, now time.Time) []right {
	var sources []authz.Source
	for _, src := range v.Policy.Sources(v.Snapshot) {
		if v.Namespace[src.ID] != "" {
			sources = append(sources, src)
		}
	}
	by := map[authz.SourceID]*right{}
	var out []*right
	grants, _ := v.Policy.Grants(v.Snapshot, sources, now)
	for _, g := range grants {
		if !slices.Contains(g.Users, user) {
			continue
		}
		if by[g.Source] == nil {
			by[g.Source] = &right{Namespace: v.Namespace[g.Source], Source: g.Source}
			out = append(out, by[g.Source])
		}
		by[g.Source].ClusterRoles = append(by[g.Source].ClusterRoles, g.ClusterRole)
	}
	list := make([]right, 0, len(out))
	for _, r := range out {
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b right) int { return strings.Compare(a.Namespace, b.Namespace) })
	return list
}

// trailOf returns how somebody comes to their level; false if they are no member.
func trailOf(v authz.View, user int64, id authz.SourceID, now time.Time) (trail, bool) {
	a, ok := authz.NewResolver(v.Snapshot, now).Members(id).Access(user)
	path, _ := v.Snapshot.Path(id)
	return trail{Path: path, Level: a.Level, Text: a.Level.String() + " in " + path}, ok
}

// can answers by the explanation of a refusal.
func can(v authz.View, user int64, q authz.Question, now time.Time) webapi.Can {
	return webapi.Can{Allowed: "unknown", Reason: v.User(user, q, now)}
}
