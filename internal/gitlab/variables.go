package gitlab

import (
	"context"
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

	Ours   bool // set by List: it carries our Marker
	Hidden bool // set by List: GitLab does not show the value
}

// String names the variable without its value.
func (v Variable) String() string { return fmt.Sprintf("%s (scope %q)", v.Key, v.EnvironmentScope) }

// GoString keeps the value out of %#v too.
func (v Variable) GoString() string { return v.String() }

// ForeignVariableError says that somebody has a variable of his own where ours belongs. Nothing was overwritten.
type ForeignVariableError struct {
	Project    int64
	Key, Scope string
}

func (e *ForeignVariableError) Error() string {
	return fmt.Sprintf("project %d already has a variable %q with scope %q that is not ours (its description does not start with %q): delete or rename it in"+
		" the project's CI/CD settings, then the next round writes ours", e.Project, e.Key, e.Scope, Marker)
}

// What GitLab refuses when variables are written, each with its cure.
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

// List returns the variables of a project, sorted by key and scope.
func (w *Variables) List(ctx context.Context, project int64) ([]Variable, error) {
	rows, err := w.list(ctx, project)
	if err != nil {
		return nil, w.explain(project, "", nil, nil, err)
	}
	out := make([]Variable, 0, len(rows))
	for _, v := range rows {
		ours, description := ownDescription(v.Description)
		out = append(out, Variable{
			Key: v.Key, Value: v.Value, Type: VariableType(v.VariableType), Masked: v.Masked, Protected: v.Protected, Raw: v.Raw,
			EnvironmentScope: v.EnvironmentScope, Description: description, Ours: ours, Hidden: v.Hidden,
		})
	}
	slices.SortFunc(out, func(a, b Variable) int {
		return strings.Compare(a.Key+"\x00"+a.EnvironmentScope, b.Key+"\x00"+b.EnvironmentScope)
	})
	return out, nil
}

func (w *Variables) list(ctx context.Context, project int64) ([]gl.ProjectVariable, error) {
	var out []gl.ProjectVariable
	q := url.Values{"per_page": {"100"}}
	for page := int64(1); ; {
		q.Set("page", fmt.Sprint(page))
		var rows []gl.ProjectVariable
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

func ownDescription(d string) (ours bool, rest string) {
	rest, ours = strings.CutPrefix(d, Marker)
	if !ours {
		return false, d
	}
	if rest == "" {
		return true, ""
	}
	rest, ours = strings.CutPrefix(rest, ": ")
	return ours, rest
}

func fullDescription(d string) string {
	if d == "" {
		return Marker
	}
	d = Marker + ": " + shorten(d)
	if r := []rune(d); len(r) > 255 { // GitLab's limit
		d = string(r[:255])
	}
	return d
}

// Have is what is known about the variables of a project, from authz.GitLabProject. The zero Have knows nothing: then
// they are listed first, which costs a request.
type Have struct {
	Known     bool
	Variables []authz.CIVariable
}

// Ensure makes the given variables exist as they are given, and returns how many it created or changed. Without knowledge
// it lists the project's variables and writes only what differs. With knowledge that none of them is there it creates them
// right away, and lists only when GitLab shows that the knowledge is outdated. What is known to be ours is looked at once
// more before it is changed: it may have become somebody's own since, and what is overwritten can't be brought back.
//
// No variable that is not ours is touched; a *ForeignVariableError names each, after all others were written. Errors are ErrMasking, ErrVariableLimit, ErrVariableRefused, ErrNoMaintainer
// and those of the client, and several of them joined.
func (w *Variables) Ensure(ctx context.Context, project int64, want []Variable, have Have) (changed int, err error) {
	for _, v := range want {
		if !variableKey.MatchString(v.Key) || v.EnvironmentScope == "" {
			return 0, fmt.Errorf("variable %q of project %d: the key may only have letters, digits and _, and the scope must be given", v.Key, project)
		}
	}
	listed := !have.Known || slices.ContainsFunc(want, func(v Variable) bool {
		return slices.ContainsFunc(have.Variables, func(h authz.CIVariable) bool {
			return h.Ours && h.Key == v.Key && h.Scope == v.EnvironmentScope
		})
	})
	there := map[string]*existing{}
	list := func() error {
		rows, err := w.list(ctx, project)
		if err != nil {
			return w.explain(project, "", want, nil, err)
		}
		clear(there)
		for _, row := range rows {
			ours, _ := ownDescription(row.Description)
			there[place(row.Key, row.EnvironmentScope)] = &existing{ours: ours, row: &row}
		}
		listed = true
		return nil
	}
	for _, v := range have.Variables {
		there[place(v.Key, v.Scope)] = &existing{ours: v.Ours}
	}
	if listed {
		if err := list(); err != nil {
			return 0, err
		}
	}
	var errs []error
	for _, v := range want {
		wrote, err := w.ensureOne(ctx, project, v, there[place(v.Key, v.EnvironmentScope)], want)
		if !listed && (errors.Is(err, errTaken) || errors.Is(err, ErrNotFound)) {
			if err := list(); err != nil {
				return changed, errors.Join(append(errs, err)...)
			}
			wrote, err = w.ensureOne(ctx, project, v, there[place(v.Key, v.EnvironmentScope)], want)
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

// existing is a variable that a project has; row is nil when only its existence is known.
type existing struct {
	ours bool
	row  *gl.ProjectVariable
}

func place(key, scope string) string { return key + "\x00" + scope }

// ensureOne writes one variable. sent are all values that must not appear in an error.
func (w *Variables) ensureOne(ctx context.Context, project int64, v Variable, have *existing, sent []Variable) (wrote bool, err error) {
	typ := gl.VariableTypeValue(v.Type)
	if typ == "" {
		typ = gl.EnvVariableType
	}
	description := fullDescription(v.Description)
	var resp *gl.Response
	switch {
	case have == nil:
		_, resp, err = w.api.client.ProjectVariables.CreateVariable(project, &gl.CreateProjectVariableOptions{
			Key: &v.Key, Value: &v.Value, Description: &description, EnvironmentScope: &v.EnvironmentScope,
			Masked: &v.Masked, Protected: &v.Protected, Raw: &v.Raw, VariableType: &typ,
		}, gl.WithContext(ctx))
	case !have.ours:
		return false, &ForeignVariableError{Project: project, Key: v.Key, Scope: v.EnvironmentScope}
	case have.row != nil && have.row.Value == v.Value && !have.row.Hidden && have.row.VariableType == typ && have.row.Masked == v.Masked &&
		have.row.Protected == v.Protected && have.row.Raw == v.Raw && have.row.Description == description:
		return false, nil
	default:
		_, resp, err = w.api.client.ProjectVariables.UpdateVariable(project, v.Key, &gl.UpdateProjectVariableOptions{
			Value: &v.Value, Description: &description, Filter: &gl.VariableFilter{EnvironmentScope: v.EnvironmentScope},
			Masked: &v.Masked, Protected: &v.Protected, Raw: &v.Raw, VariableType: &typ,
		}, gl.WithContext(ctx))
	}
	return err == nil, w.explain(project, v.Key, sent, resp, err)
}

// Remove deletes our variables of the given environment scopes, other than those in keep, from a project and returns how
// many there were. It names scopes, because another installation may have its own variables in the project under another
// one. With knowledge that there are none it sends nothing. A project that does not exist has none.
func (w *Variables) Remove(ctx context.Context, project int64, scopes []string, keep []Variable, known Have) (removed int, err error) {
	kept := map[string]bool{}
	for _, v := range keep {
		kept[place(v.Key, v.EnvironmentScope)] = true
	}
	goes := func(key, scope string, ours bool) bool {
		return ours && slices.Contains(scopes, scope) && !kept[place(key, scope)]
	}
	if known.Known && !slices.ContainsFunc(known.Variables, func(v authz.CIVariable) bool { return goes(v.Key, v.Scope, v.Ours) }) {
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
	for _, h := range have {
		if ours, _ := ownDescription(h.Description); !goes(h.Key, h.EnvironmentScope, ours) {
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
