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

// ErrMasking says that GitLab refused a value, most often because it can't be masked.
var ErrMasking = errors.New("GitLab refused the variable: a masked value must be one line of at least 8 characters without spaces, a key" +
	" only letters, digits and _, and a project has at most 8000 variables")

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

// Ensure makes the given variables exist as they are given, and returns how many it created or changed. It writes
// only what differs and touches no variable that is not ours; a *ForeignVariableError names the first such one,
// after all others were written.
func (w *Variables) Ensure(ctx context.Context, project int64, want []Variable) (changed int, err error) {
	for _, v := range want {
		if !variableKey.MatchString(v.Key) || v.EnvironmentScope == "" {
			return 0, fmt.Errorf("variable %q of project %d: the key may only have letters, digits and _, and the scope must be given", v.Key, project)
		}
	}
	have, err := w.list(ctx, project)
	if err != nil {
		return 0, w.explain(project, "", want, nil, err)
	}
	var errs []error
	for _, v := range want {
		i := slices.IndexFunc(have, func(h gl.ProjectVariable) bool { return h.Key == v.Key && h.EnvironmentScope == v.EnvironmentScope })
		typ := gl.VariableTypeValue(v.Type)
		if typ == "" {
			typ = gl.EnvVariableType
		}
		description := fullDescription(v.Description)
		if i < 0 {
			_, resp, err := w.api.client.ProjectVariables.CreateVariable(project, &gl.CreateProjectVariableOptions{
				Key: &v.Key, Value: &v.Value, Description: &description, EnvironmentScope: &v.EnvironmentScope,
				Masked: &v.Masked, Protected: &v.Protected, Raw: &v.Raw, VariableType: &typ,
			}, gl.WithContext(ctx))
			if err != nil {
				if err := w.explain(project, v.Key, want, resp, err); stopWriting(err) {
					return changed, errors.Join(append(errs, err)...)
				} else {
					errs = append(errs, err)
				}
				continue
			}
			changed++
			continue
		}
		h := have[i]
		if ours, _ := ownDescription(h.Description); !ours {
			errs = append(errs, &ForeignVariableError{Project: project, Key: v.Key, Scope: v.EnvironmentScope})
			continue
		}
		if h.Value == v.Value && !h.Hidden && h.VariableType == typ && h.Masked == v.Masked && h.Protected == v.Protected && h.Raw == v.Raw && h.Description == description {
			continue
		}
		_, resp, err := w.api.client.ProjectVariables.UpdateVariable(project, v.Key, &gl.UpdateProjectVariableOptions{
			Value: &v.Value, Description: &description, Filter: &gl.VariableFilter{EnvironmentScope: v.EnvironmentScope},
			Masked: &v.Masked, Protected: &v.Protected, Raw: &v.Raw, VariableType: &typ,
		}, gl.WithContext(ctx))
		if err != nil {
			if err := w.explain(project, v.Key, want, resp, err); stopWriting(err) {
				return changed, errors.Join(append(errs, err)...)
			} else {
				errs = append(errs, err)
			}
			continue
		}
		changed++
	}
	return changed, errors.Join(errs...)
}

// Remove deletes our variables of one environment scope from a project and returns how many there were. A project
// that does not exist has none.
func (w *Variables) Remove(ctx context.Context, project int64, scope string) (removed int, err error) {
	have, err := w.list(ctx, project)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, w.explain(project, "", nil, nil, err)
	}
	var errs []error
	for _, h := range have {
		if ours, _ := ownDescription(h.Description); !ours || h.EnvironmentScope != scope {
			continue
		}
		resp, err := w.api.client.ProjectVariables.RemoveVariable(project, h.Key,
			&gl.RemoveProjectVariableOptions{Filter: &gl.VariableFilter{EnvironmentScope: scope}}, gl.WithContext(ctx))
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

// stopWriting reports whether further variables of the project would fail in the same way.
func stopWriting(err error) bool {
	return err != nil && (global(err) || errors.Is(err, ErrForbidden) || errors.Is(err, ErrBusy))
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
		out.kind = ErrMasking
	case http.StatusForbidden:
		out.kind = fmt.Errorf("%w; the write token needs the scope api and the role Maintainer in project %d", ErrForbidden, project)
	case http.StatusNotFound:
		out.kind = fmt.Errorf("%w: project %d, or the variable; the write token must see the project as Maintainer or administrator", ErrNotFound, project)
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
