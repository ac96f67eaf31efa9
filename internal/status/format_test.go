package status

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// TestAStatusOfALaterVersionIsKept: no key is written into a status whose format is not known.
func TestAStatusOfALaterVersionIsKept(t *testing.T) {
	kube := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: store.NameStatus, Namespace: deploy.Namespace, Annotations: map[string]string{kubename.AnnotationFormat: "2"},
	}})
	for _, key := range []string{documentKey, activityKey} {
		if err := setKey(t.Context(), kube, key, "x", ""); !errors.Is(err, store.ErrNewer) {
			t.Errorf("%s: %v", key, err)
		}
	}
	cm, err := kube.CoreV1().ConfigMaps(deploy.Namespace).Get(t.Context(), store.NameStatus, metav1.GetOptions{})
	if err != nil || len(cm.Data) > 0 {
		t.Errorf("%v, %v", cm.Data, err)
	}
}
