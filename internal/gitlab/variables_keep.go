package gitlab

import (
	"context"
	"errors"
	"slices"

	gl "gitlab.com/gitlab-org/api/client-go/v2"
)

// RemoveAllBut is Remove for the variables whose keys are not in keep.
func (w *Variables) RemoveAllBut(ctx context.Context, project int64, scope string, keep []string) (removed int, err error) {
	have, err := w.list(ctx, project)
	if err != nil {
		if err = w.explain(project, "", nil, nil, err); errors.Is(err, ErrNotFound) {
			return 0, nil
		}
		return 0, err
	}
	var errs []error
	for _, h := range have {
		if ours, _ := ownDescription(h.Description); !ours || h.EnvironmentScope != scope || slices.Contains(keep, h.Key) {
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
