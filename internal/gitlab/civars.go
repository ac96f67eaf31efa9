package gitlab

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// CIVariables says which CI/CD variables of projects a Reader tells: those with our Scope and one of the Keys, whoever
// they belong to, and those that carry our Marker, in any scope. Values are never asked for. An empty Scope reads none.
type CIVariables struct {
	Scope string
	Keys  []string
}

const (
	// maxVarPages bounds how many further pages of variables one reading follows: a project may have 8,000 variables, and
	// whoever makes them decides how many requests they cost.
	maxVarPages = 200
	// maxVarFailures is how many pages of projects may fail with their variables before a reading asks for none any more.
	maxVarFailures = 2
)

// varsReading collects the variables of projects. It belongs to one reading.
type varsReading struct {
	want     CIVariables
	text     map[string]string // each key and scope once, however many projects have it
	of       map[int64][]authz.CIVariable
	none     *[]authz.CIVariable // what all projects without variables have
	complete map[int64]bool
	pages    int // further pages so far
	failures int
}

func newVarsReading(want CIVariables) *varsReading {
	if want.Scope == "" {
		return nil
	}
	v := &varsReading{want: want, text: map[string]string{want.Scope: want.Scope}, of: map[int64][]authz.CIVariable{}, complete: map[int64]bool{}, none: new([]authz.CIVariable)}
	for _, k := range want.Keys {
		v.text[k] = k
	}
	return v
}

// put gives a project its variables, or says that they are not known.
func (v *varsReading) put(p *authz.Project) {
	p.Variables = nil
	if v == nil || !v.complete[p.ID] {
		return
	}
	if p.Variables = v.none; len(v.of[p.ID]) > 0 {
		p.Variables = new(v.of[p.ID])
	}
}

// putAll is put for these projects of a Snapshot.
func (v *varsReading) putAll(s *authz.Snapshot, ids []int64) {
	for _, id := range ids {
		if p, ok := s.Projects[id]; ok {
			v.put(&p)
			s.Projects[id] = p
		}
	}
}

func (v *varsReading) intern(s string) string {
	if known, ok := v.text[s]; ok {
		return known
	}
	v.text[s] = strings.Clone(s) // not a part of an answer that would stay in memory for it
	return v.text[s]
}

// take notes one page of a project's variables and returns the cursor of the next one; null means that GitLab does not
// let us see them. What can't be understood leaves the project unknown.
func (v *varsReading) take(project int64, page *gqlVariables) (next string) {
	if page == nil || slices.Contains(page.Nodes, nil) {
		v.forget(project)
		return ""
	}
	for _, n := range page.Nodes {
		m := parseDescription(n.Description)
		if !m.ours && (n.Scope != v.want.Scope || !slices.Contains(v.want.Keys, n.Key)) {
			continue
		}
		v.of[project] = append(v.of[project], authz.CIVariable{
			Key: v.intern(n.Key), Scope: v.intern(n.Scope), File: n.Type == "FILE", Masked: n.Masked, Protected: n.Protected,
			Raw: n.Raw, Hidden: n.Hidden, Marked: m.ours, Cluster: v.intern(m.cluster), Delivery: v.intern(m.delivery),
		})
	}
	if !page.PageInfo.HasNextPage {
		rows := slices.Clip(v.of[project])
		slices.SortFunc(rows, compareVariables)
		if rows != nil {
			v.of[project] = rows
		}
		v.complete[project] = true
		return ""
	}
	v.pages++
	if page.PageInfo.EndCursor == "" || v.pages > maxVarPages {
		v.forget(project)
		return ""
	}
	return page.PageInfo.EndCursor
}

func (v *varsReading) forget(project int64) {
	delete(v.of, project)
	delete(v.complete, project)
}

func compareVariables(a, b authz.CIVariable) int {
	if c := strings.Compare(a.Key, b.Key); c != 0 {
		return c
	}
	return strings.Compare(a.Scope, b.Scope)
}

// wantsVariables reports whether pages of projects are asked for with their variables.
func (g *gqlRead) wantsVariables() bool {
	return g.vars != nil && g.schema.variable != "" && g.vars.failures < maxVarFailures
}

// takeVariables notes the variables of a project and returns what is still to be read of them.
func (g *gqlRead) takeVariables(project int64, page *gqlVariables) []*part {
	next := g.vars.take(project, page)
	if next == "" {
		return nil
	}
	p := g.text.moreVariables(project, next)
	p.done = func(raw json.RawMessage) ([]*part, []*part, error) {
		page, err := decodeNodes[gqlSource](raw)
		if err != nil {
			return nil, nil, err
		}
		if len(page.Nodes) != 1 || (page.Nodes[0].Variables != nil && page.Nodes[0].Variables.PageInfo.HasNextPage && page.Nodes[0].Variables.PageInfo.EndCursor == next) {
			g.vars.forget(project)
			return nil, nil, nil
		}
		id, err := gid(page.Nodes[0].ID, "Project")
		if err == nil && id != project {
			err = errors.New("the answer is about something else")
		}
		if err != nil {
			return nil, nil, err
		}
		return nil, g.takeVariables(project, page.Nodes[0].Variables), nil
	}
	p.failed = func(error) ([]*part, error) { g.vars.forget(project); return nil, nil }
	return []*part{p}
}

// variablesOf reads the variables of projects, at most as many as a page has.
func (g *gqlRead) variablesOf(projects []int64) *part {
	p := g.text.variables(projects)
	p.done = func(raw json.RawMessage) (next, more []*part, err error) {
		page, err := decodeNodes[gqlSource](raw)
		if err != nil {
			return nil, nil, err
		}
		for _, n := range page.Nodes {
			id, err := gid(n.ID, "Project")
			if err != nil {
				return nil, nil, err
			}
			more = append(more, g.takeVariables(id, n.Variables)...)
		}
		return nil, more, nil
	}
	p.failed = func(err error) ([]*part, error) { return nil, err }
	return p
}
