package gitlab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	gl "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Marker starts the description of every variable that is ours. Variables without it are somebody's own.
const Marker = "Managed by gl-k8s-integrator"

// VariableType is GitLab's type of a variable: whether the job gets the value or the path of a file with it.
type VariableType string

// GitLab's types of variables.
const (
	EnvVar VariableType = "env_var"
	File   VariableType = "file"
)

// Variable is a CI/CD variable of a project. Description is what stands after our Marker.
type Variable struct {
	Key              string
	Value            string `json:"-"` // a secret: never in a log, also not a JSON one
	Type             VariableType
	Masked           bool
	Protected        bool
	Raw              bool
	EnvironmentScope string
	Description      string
	Cluster          string // id of the cluster that it belongs to: set by List, and by Ensure to the Claim's
	Delivery         string // stands for the value in the mark: whoever sees the mark alone can tell an older value

	Marked bool // set by List: it carries our Marker
	Hidden bool // set by List: GitLab does not show the value
}

// String names the variable without its value.
func (v Variable) String() string { return fmt.Sprintf("%s (scope %q)", v.Key, v.EnvironmentScope) }

// GoString keeps the value out of %#v too.
func (v Variable) GoString() string { return v.String() }

// ForeignVariableError says that somebody has a variable of their own where ours belongs. Nothing was overwritten.
type ForeignVariableError struct {
	Project    int64
	Key, Scope string
}

func (e *ForeignVariableError) Error() string {
	return fmt.Sprintf("project %d already has a variable %q with scope %q that is not ours (its description does not start with %q): delete or rename it in"+
		" the project's CI/CD settings, then the next round writes ours", e.Project, e.Key, e.Scope, Marker)
}

// What GitLab refuses when variables are written, each with a hint.
var (
	// ErrMasking says that the value can't be masked.
	ErrMasking = errors.New("GitLab refused the value, because it can't be masked: a masked value must be one line of at least 8 characters" +
		" without spaces, and without raw only letters, digits and _+=/@:.~-: a token of the API server fits, so look at what the token is")
	// ErrVariableLimit says that the project has as many variables as GitLab allows.
	ErrVariableLimit = errors.New("the project has as many CI/CD variables as GitLab allows (8000 by default): delete some in the project's CI/CD" +
		" settings, or raise the instance's limit project_ci_variables")
	// ErrVariableRefused says that GitLab refuses the variable for another reason, which stands beside it.
	ErrVariableRefused = errors.New("GitLab refused the variable as invalid: the environment scope may only have letters, digits, spaces and" +
		" -_/${}.* and at most 255 characters; check ci.environment")
	// ErrNoMaintainer says that the write token may not write in the project.
	ErrNoMaintainer = errors.New("the write token needs the scope api and must belong to an administrator, or to a Maintainer of the project")
)

// errTaken says that a variable to be created is there already.
var errTaken = errors.New("a variable with this key and scope exists already")

// Variables writes CI/CD variables of projects with a token of its own, which needs the scope api and Maintainer in
// the projects, or an administrator.
type Variables struct{ api *api }

// NewVariables returns a writer. It does no request.
func NewVariables(o Options) (*Variables, error) {
	a, err := newAPI(o)
	if err != nil {
		return nil, err
	}
	return &Variables{api: a}, nil
}

// Requests returns how many requests of each kind were sent so far.
func (w *Variables) Requests() map[string]int64 { return w.api.gate.requests() }

var variableKey = regexp.MustCompile(`^[A-Za-z0-9_]{1,255}$`)

// List returns the variables of a project, sorted by key and scope. In a GitLab before 15.7, where nobody can choose it,
// all are Raw as far as this tells.
func (w *Variables) List(ctx context.Context, project int64) ([]Variable, error) {
	rows, err := w.list(ctx, project)
	if err != nil {
		return nil, w.explain(project, "", nil, nil, err)
	}
	out := make([]Variable, 0, len(rows))
	for _, v := range rows {
		m := parseDescription(v.description())
		out = append(out, Variable{
			Key: v.Key, Value: v.Value, Type: v.Type, Masked: v.Masked, Protected: v.Protected, Raw: v.Raw == nil || *v.Raw,
			EnvironmentScope: v.EnvironmentScope, Description: m.text, Cluster: m.cluster, Delivery: m.delivery, Marked: m.ours, Hidden: v.Hidden,
		})
	}
	slices.SortFunc(out, func(a, b Variable) int {
		return strings.Compare(a.Key+"\x00"+a.EnvironmentScope, b.Key+"\x00"+b.EnvironmentScope)
	})
	return out, nil
}

// restVariable is a variable as GitLab shows it. What a GitLab does not know it leaves out.
type restVariable struct {
	Key              string       `json:"key"`
	Value            string       `json:"value"`
	Type             VariableType `json:"variable_type"`
	Masked           bool         `json:"masked"`
	Hidden           bool         `json:"hidden"`
	Protected        bool         `json:"protected"`
	Raw              *bool        `json:"raw"`
	EnvironmentScope string       `json:"environment_scope"`
	// Description is nil in a GitLab before 16.2, and "null" where there is none.
	Description json.RawMessage `json:"description"`
}

func (v restVariable) description() string {
	var d string
	_ = json.Unmarshal(v.Description, &d) // what is no text is no description of ours
	return d
}

func (w *Variables) list(ctx context.Context, project int64) ([]restVariable, error) {
	var out []restVariable
	q := url.Values{"per_page": {"100"}}
	for page := int64(1); ; {
		q.Set("page", fmt.Sprint(page))
		var rows []restVariable
		resp, err := w.api.get(ctx, fmt.Sprintf("projects/%d/variables", project), q, &rows)
		if err != nil {
			return nil, err
		}
		out = append(out, rows...)
		if resp.NextPage <= page {
			return out, nil
		}
		page = resp.NextPage
	}
}

const (
	clusterWord  = "cluster "
	deliveryWord = "delivery "
)

// deliveryID is what a Variable's Delivery may be, so that what somebody writes into a description does not fill the memory.
var deliveryID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// mark is what the description of a variable says.
type mark struct {
	ours     bool   // an integrator's
	cluster  string // whose; "" before clusters were named
	delivery string // "" before deliveries were named
	text     string // what follows
}

// parseDescription tells whether a description is ours, which cluster it names and which delivery. In the beginning it was
// the Marker alone, with or without a text.
func parseDescription(d string) mark {
	rest, ours := strings.CutPrefix(d, Marker)
	if !ours || rest == "" {
		return mark{ours: ours, text: rest}
	}
	if rest, ours = strings.CutPrefix(rest, ": "); !ours {
		return mark{text: d}
	}
	m := mark{ours: true, text: rest}
	if named, ok := strings.CutPrefix(m.text, clusterWord); ok {
		m.cluster, m.text, _ = strings.Cut(named, ": ")
	}
	if named, ok := strings.CutPrefix(m.text, deliveryWord); ok {
		if id, text, _ := strings.Cut(named, ": "); deliveryID.MatchString(id) {
			m.delivery, m.text = id, text
		}
	}
	return m
}

func (v Variable) description() string {
	parts := []string{Marker}
	if v.Cluster != "" {
		parts = append(parts, clusterWord+v.Cluster)
	}
	if v.Delivery != "" {
		parts = append(parts, deliveryWord+v.Delivery)
	}
	if v.Description != "" {
		parts = append(parts, shorten(v.Description))
	}
	d := strings.Join(parts, ": ")
	if r := []rune(d); len(r) > 255 { // GitLab's limit
		d = string(r[:255])
	}
	return d
}

// Unnamed stands in Claim.Replaces for all marks of the version before, which name no cluster.
const Unnamed = "unnamed"

// Claim says what of all that GitLab has belongs to this cluster: what our mark is on with its id, or with that of a cluster
// whose place it takes. Where no cluster is named, or a GitLab before 16.2 has no place for a mark, only our own record
// tells, and what it does not know is not ours.
type Claim struct {
	Cluster  string   // id of this cluster
	Replaces []string // ids of clusters whose place it takes, or Unnamed
	// Wrote reports whether the value of this key is one that we wrote, as far as our record knows. nil: none is.
	Wrote func(key, value string) bool
}

func (c Claim) names(cluster string) bool {
	return cluster == c.Cluster || slices.Contains(c.Replaces, cluster)
}

// owner says whose a variable or an integration is.
type owner int

const (
	somebodys owner = iota // somebody's own
	ours
	otherCluster // an integrator's of another cluster
)

// whose judges by the mark, and by wrote where that does not tell.
func (c Claim) whose(marked bool, cluster string, wrote func() bool) owner {
	switch {
	case marked && cluster != "" && c.names(cluster), marked && cluster == "" && slices.Contains(c.Replaces, Unnamed):
		return ours
	case marked && cluster == "" && wrote():
		return ours
	case marked:
		return otherCluster
	}
	return somebodys
}

func (c Claim) variable(v restVariable) (whose owner, cluster string) {
	wrote := func() bool { return c.Wrote != nil && !v.Hidden && c.Wrote(v.Key, v.Value) }
	d := v.description()
	m := parseDescription(d)
	if !m.ours && d == "" && wrote() {
		return ours, ""
	}
	return c.whose(m.ours, m.cluster, wrote), m.cluster
}

// OtherClusterError says that what is in the place of ours belongs to another cluster. Nothing was written.
type OtherClusterError struct {
	Project int64
	Scope   string
	Cluster string   // its id, "" if the mark names none
	Keys    []string // of variables; none: the cluster integration
}

func (e *OtherClusterError) Error() string {
	what := "the cluster integration"
	if len(e.Keys) > 0 {
		what = "the variables " + strings.Join(e.Keys, ", ")
	}
	return fmt.Sprintf("%s of project %d with the environment scope %q belong to another cluster (id %q)", what, e.Project, e.Scope, shorten(e.Cluster))
}

// Have is what is known about the variables of a project, from authz.Project. The zero Have knows nothing: then
// they are listed first, which costs a request.
type Have struct {
	Known     bool
	Variables []authz.CIVariable
}

// Ensure makes the given variables exist as they are given, and returns how many it created or changed. Without knowledge
// it lists the project's variables and writes only what differs. With knowledge that none of them is there it creates them
// right away, and lists only when GitLab shows that the knowledge is outdated. What is known to be there is looked at once
// more before it is changed: it may have become somebody's own since, and what is overwritten can't be brought back.
//
// No variable that is not ours by the claim is touched. If one of the same scope is another cluster's, that is an
// *OtherClusterError and nothing is written, because a job needs all of them from one cluster. For each of somebody's own there
// is a *ForeignVariableError, after all others were written. Errors are ErrMasking, ErrVariableLimit, ErrVariableRefused, ErrNoMaintainer
// and those of the client, and several of them joined.
func (w *Variables) Ensure(ctx context.Context, project int64, want []Variable, have Have, claim Claim) (changed int, err error) {
	for _, v := range want {
		if !variableKey.MatchString(v.Key) || v.EnvironmentScope == "" {
			return 0, fmt.Errorf("variable %q of project %d: the key may only have letters, digits and _, and the scope must be given", v.Key, project)
		}
	}
	want = slices.Clone(want)
	for i := range want {
		want[i].Cluster = claim.Cluster
	}
	there := map[string]existing{}
	listed := false
	list := func() error {
		rows, err := w.list(ctx, project)
		if err != nil {
			return w.explain(project, "", want, nil, err)
		}
		listed = true
		there = claim.judge(rows)
		return taken(project, there, want)
	}
	if !have.Known || slices.ContainsFunc(have.Variables, func(h authz.CIVariable) bool { return concerns(h, want) }) {
		if err := list(); err != nil {
			return 0, err
		}
	}
	var errs []error
	for _, v := range want {
		wrote, err := w.ensureOne(ctx, project, v, there, want)
		if !listed && (errors.Is(err, errTaken) || errors.Is(err, ErrNotFound)) {
			if err := list(); err != nil {
				return changed, errors.Join(append(errs, err)...)
			}
			wrote, err = w.ensureOne(ctx, project, v, there, want)
		}
		if wrote {
			changed++
		}
		if err != nil {
			errs = append(errs, err)
		}
		if stopWriting(err) {
			break
		}
	}
	return changed, errors.Join(errs...)
}

// concerns reports whether a variable that is known to be there may be one that is wanted, or another cluster's beside it.
func concerns(h authz.CIVariable, want []Variable) bool {
	return slices.ContainsFunc(want, func(v Variable) bool { return h.Scope == v.EnvironmentScope && (h.Marked || h.Key == v.Key) })
}

// existing is a variable that a project has.
type existing struct {
	whose   owner
	cluster string // that its mark names
	row     restVariable
}

func place(key, scope string) string { return key + "\x00" + scope }

// judge says whose the variables of a project are. Values that are the same in two clusters, such as the namespace, don't tell
// them apart: where a mark names no cluster, all of a scope are ours or none is.
func (c Claim) judge(rows []restVariable) map[string]existing {
	out := make(map[string]existing, len(rows))
	taken := map[string]bool{} // scopes in which another cluster has some
	for _, row := range rows {
		whose, cluster := c.variable(row)
		out[place(row.Key, row.EnvironmentScope)] = existing{whose, cluster, row}
		taken[row.EnvironmentScope] = taken[row.EnvironmentScope] || whose == otherCluster
	}
	for at, e := range out {
		if e.whose == ours && e.cluster == "" && taken[e.row.EnvironmentScope] && !slices.Contains(c.Replaces, Unnamed) {
			e.whose = otherCluster
			out[at] = e
		}
	}
	return out
}

// taken returns an *OtherClusterError if another cluster has variables in a scope of those wanted.
func taken(project int64, have map[string]existing, want []Variable) error {
	var other *OtherClusterError
	for _, e := range have {
		if e.whose != otherCluster || !slices.ContainsFunc(want, func(v Variable) bool { return v.EnvironmentScope == e.row.EnvironmentScope }) {
			continue
		}
		if other == nil {
			other = &OtherClusterError{Project: project, Scope: e.row.EnvironmentScope}
		}
		other.Keys = append(other.Keys, e.row.Key)
		other.Cluster = max(other.Cluster, e.cluster)
	}
	if other == nil {
		return nil
	}
	slices.Sort(other.Keys)
	return other
}

// as reports whether GitLab has the variable already as it should be. What an older GitLab does not know does not differ.
func (v restVariable) as(want Variable, typ VariableType) bool {
	return v.Value == want.Value && !v.Hidden && v.Type == typ && v.Masked == want.Masked && v.Protected == want.Protected &&
		(v.Raw == nil || *v.Raw == want.Raw) && (v.Description == nil || v.description() == want.description())
}

// ensureOne writes one variable. sent are all values that must not appear in an error.
func (w *Variables) ensureOne(ctx context.Context, project int64, v Variable, there map[string]existing, sent []Variable) (wrote bool, err error) {
	typ := VariableType(cmp.Or(string(v.Type), string(EnvVar)))
	glType, description := gl.VariableTypeValue(typ), v.description()
	have, exists := there[place(v.Key, v.EnvironmentScope)]
	var resp *gl.Response
	switch {
	case !exists:
		_, resp, err = w.api.client.ProjectVariables.CreateVariable(project, &gl.CreateProjectVariableOptions{
			Key: &v.Key, Value: &v.Value, Description: &description, EnvironmentScope: &v.EnvironmentScope,
			Masked: &v.Masked, Protected: &v.Protected, Raw: &v.Raw, VariableType: &glType,
		}, gl.WithContext(ctx))
	case have.whose != ours:
		return false, &ForeignVariableError{Project: project, Key: v.Key, Scope: v.EnvironmentScope}
	case have.row.as(v, typ):
		return false, nil
	default:
		_, resp, err = w.api.client.ProjectVariables.UpdateVariable(project, v.Key, &gl.UpdateProjectVariableOptions{
			Value: &v.Value, Description: &description, Filter: &gl.VariableFilter{EnvironmentScope: v.EnvironmentScope},
			Masked: &v.Masked, Protected: &v.Protected, Raw: &v.Raw, VariableType: &glType,
		}, gl.WithContext(ctx))
	}
	return err == nil, w.explain(project, v.Key, sent, resp, err)
}

// Remove deletes our variables of the given environment scopes, other than those in keep, from a project and returns how
// many there were. It names scopes, because the project may have some of another installation under another
// one. With knowledge that there are none it sends nothing. A project that does not exist has none.
func (w *Variables) Remove(ctx context.Context, project int64, scopes []string, keep []Variable, known Have, claim Claim) (removed int, err error) {
	kept := map[string]bool{}
	for _, v := range keep {
		kept[place(v.Key, v.EnvironmentScope)] = true
	}
	goes := func(key, scope string) bool { return slices.Contains(scopes, scope) && !kept[place(key, scope)] }
	if known.Known && !slices.ContainsFunc(known.Variables, func(v authz.CIVariable) bool { return v.Marked && goes(v.Key, v.Scope) }) {
		return 0, nil
	}
	have, err := w.list(ctx, project) // also with knowledge: what is deleted can't be brought back
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, w.explain(project, "", nil, nil, err)
	}
	var errs []error
	judged := claim.judge(have)
	for _, h := range have {
		if judged[place(h.Key, h.EnvironmentScope)].whose != ours || !goes(h.Key, h.EnvironmentScope) {
			continue
		}
		resp, err := w.api.client.ProjectVariables.RemoveVariable(project, h.Key,
			&gl.RemoveProjectVariableOptions{Filter: &gl.VariableFilter{EnvironmentScope: h.EnvironmentScope}}, gl.WithContext(ctx))
		err = w.explain(project, h.Key, nil, resp, err)
		switch {
		case err == nil:
			removed++
		case errors.Is(err, ErrNotFound): // somebody was faster
		case stopWriting(err):
			return removed, errors.Join(append(errs, err)...)
		default:
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}

// stopWriting reports whether further variables of the project would fail in the same way. A full project is no such
// reason: what it has already can still be updated.
func stopWriting(err error) bool {
	return err != nil && (global(err) || errors.Is(err, ErrNoMaintainer) || errors.Is(err, ErrBusy))
}

// explain makes our error; neither the token nor any value that was sent or could be echoed survives it.
func (w *Variables) explain(project int64, key string, sent []Variable, resp *gl.Response, err error) error {
	if err == nil {
		return nil
	}
	doing := fmt.Sprintf("writing variable %s of project %d", key, project)
	if key == "" {
		doing = fmt.Sprintf("listing variables of project %d", project)
	}
	var e *callError
	if !errors.As(w.api.explain(doing, resp, err), &e) {
		return fmt.Errorf("%s: failed", doing)
	}
	out := *e
	out.doing = doing
	switch out.status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		out.kind = refusal(out.detail)
	case http.StatusForbidden:
		out.kind = fmt.Errorf("%w (%w): project %d", ErrNoMaintainer, ErrForbidden, project)
	case http.StatusNotFound:
		out.kind = fmt.Errorf("%w: project %d, or the variable; %w", ErrNotFound, project, ErrNoMaintainer)
	}
	for _, v := range sent {
		for _, line := range append(strings.Split(v.Value, "\n"), v.Value, shorten(v.Value)) {
			if len(line) >= 4 {
				out.detail = strings.ReplaceAll(out.detail, line, "[value]")
			}
		}
	}
	return &out
}

// refusal tells the reasons of a 400 apart, by GitLab's own words.
func refusal(detail string) error {
	switch {
	case strings.Contains(detail, "has already been taken"):
		return errTaken
	case strings.Contains(detail, "Maximum number of"):
		return ErrVariableLimit
	case strings.Contains(detail, "value:") && strings.Contains(detail, "invalid"), strings.Contains(detail, "masked:"):
		return ErrMasking
	}
	return ErrVariableRefused
}
