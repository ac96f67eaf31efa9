package deploy_test

import (
	"context"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// People of the tests. strong has every right that RBAC can give a tenant in their namespace, so that only the fence
// stands in their way.
const (
	maintainer = 7
	developer  = 8
	strong     = 9
)

func person(t *testing.T, id int64) kubernetes.Interface {
	return as(t, kubename.User(id), kubename.GroupUsers)
}

func serviceAccount(t *testing.T, ns, name string) kubernetes.Interface {
	return as(t, "system:serviceaccount:"+ns+":"+name, "system:serviceaccounts", "system:serviceaccounts:"+ns)
}

// integrator uses a real token of the integrator's ServiceAccount, as its thief would.
func integrator(t *testing.T) kubernetes.Interface {
	t.Helper()
	tr, err := as(t, "").CoreV1().ServiceAccounts(deploy.Namespace).CreateToken(t.Context(), deploy.ServiceAccount, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := cluster.AdminConfig()
	cfg.CertData, cfg.KeyData, cfg.BearerToken = nil, nil, tr.Status.Token
	return clientFor(t, cfg)
}

// withToken returns the configuration of a client with a token of its own, so that what it impersonates is asked of it.
func withToken(t *testing.T, ns, name string) *rest.Config {
	t.Helper()
	tr, err := as(t, "").CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := cluster.AdminConfig()
	cfg.CertData, cfg.KeyData, cfg.BearerToken = nil, nil, tr.Status.Token
	return cfg
}

// accountWith makes a ServiceAccount outside of all that is managed, binds it to the ClusterRole in ns, and returns its
// configuration.
func accountWith(t *testing.T, ns, role string) *rest.Config {
	t.Helper()
	admin := as(t, "").CoreV1().ServiceAccounts("default")
	name := role + "-of-" + ns
	if _, err := admin.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = admin.Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{}) })
	if err := bindIn(t.Context(), as(t, ""), ns, binding(metav1.ObjectMeta{Name: name}, role, account("default", name))); err != nil {
		t.Fatal(err)
	}
	return withToken(t, "default", name)
}

// impersonator has the built-in edit in a namespace, by an account and token of its own, and uses what edit holds there:
// it impersonates the CI ServiceAccount.
func impersonator(t *testing.T, ns string) kubernetes.Interface {
	t.Helper()
	cfg := accountWith(t, ns, "edit")
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + ns + ":" + kubename.CIServiceAccount}
	return clientFor(t, cfg)
}

var mark = map[string]string{kubename.LabelManagedBy: kubename.ManagedBy}

func marked(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Labels: mark} }

func subject(user string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}
}

func account(ns, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: name}
}

func binding(meta metav1.ObjectMeta, role string, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		ObjectMeta: meta, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	}
}

// managed makes a namespace with all that belongs into one, as the integrator and with nothing but its rights.
func managed(t *testing.T, name string) string {
	t.Helper()
	ctx, own, admin := t.Context(), integrator(t), as(t, "")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := own.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		kubename.LabelManagedBy: kubename.ManagedBy, kubename.LabelSource: "group-7", "pod-security.kubernetes.io/enforce": "baseline",
	}}}, metav1.CreateOptions{})
	must(err)
	_, err = own.CoreV1().ServiceAccounts(name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: marked(kubename.CIServiceAccount)}, metav1.CreateOptions{})
	must(err)
	for _, b := range []*rbacv1.RoleBinding{
		binding(marked("gitlab-edit"), "edit", subject(kubename.User(maintainer))),
		binding(marked("gitlab-view"), "view", subject(kubename.User(developer))),
		binding(marked(kubename.CIRoleBinding), kubename.CIClusterRole, account(name, kubename.CIServiceAccount), subject(kubename.CIJob(42)), group("gitlab:project_env:42:icc-k8s-abc123")),
	} {
		_, err = own.RbacV1().RoleBindings(name).Create(ctx, b, metav1.CreateOptions{})
		must(err)
	}
	s, err := own.CoreV1().Secrets(name).Create(ctx, &corev1.Secret{ObjectMeta: marked(kubename.CISecret), Type: corev1.SecretTypeOpaque}, metav1.CreateOptions{})
	must(err)
	quarter := int64(90 * 24 * 3600)
	tr, err := own.CoreV1().ServiceAccounts(name).CreateToken(ctx, kubename.CIServiceAccount, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &quarter,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Secret", APIVersion: "v1", Name: s.Name, UID: s.UID},
	}}, metav1.CreateOptions{})
	must(err)
	s.Data = map[string][]byte{"token": []byte(tr.Status.Token)}
	_, err = own.CoreV1().Secrets(name).Update(ctx, s, metav1.UpdateOptions{})
	must(err)

	_, err = admin.RbacV1().RoleBindings(name).Create(ctx, binding(metav1.ObjectMeta{Name: "by-admin"}, kubename.CIClusterRole, subject(kubename.User(strong))), metav1.CreateOptions{})
	must(err)
	_, err = admin.CoreV1().ResourceQuotas(name).Create(ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "quota"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/secrets": resource.MustParse("50")}},
	}, metav1.CreateOptions{})
	must(err)
	awaitDefaultAccount(t, name)
	t.Cleanup(func() { // without waiting: TestNamespaceDeletionCompletes waits
		_ = admin.CoreV1().Namespaces().Delete(context.WithoutCancel(ctx), name, metav1.DeleteOptions{})
	})
	return name
}

func awaitDefaultAccount(t *testing.T, ns string) {
	t.Helper()
	eventually(t, "the ServiceAccount default of "+ns, func() bool {
		_, err := as(t, "").CoreV1().ServiceAccounts(ns).Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s in vain for %s", what)
		}
	}
}

// attack is something that must be refused, and how the refusal must explain itself.
type attack struct {
	name string
	do   func(ctx context.Context, c kubernetes.Interface, ns string) error
	want string
}

const (
	ownsNamespace = "tenants can't change a namespace itself"
	ownsObject    = "this object belongs to gl-k8s-integrator"
	ownsMark      = "is the mark of what gl-k8s-integrator owns"
	ownsQuota     = "tenants can't change the quotas and limits"
	noTokenSecret = "hold a token that never expires"
	noCIToken     = "tokens of gitlab-serviceaccount are made by gl-k8s-integrator alone"
	noLongToken   = "may live 24 hours at most"
	onlyOwnSAs    = "may name only ServiceAccounts of its own namespace"
	keptName      = "this name is kept for gl-k8s-integrator"
	noOwnToken    = "a ServiceAccount can't make tokens here"
	noPodToken    = "a token bound to a pod, or of exactly 3607 seconds"
	notTheirs     = "names others than ServiceAccounts of this namespace"
	noEvents      = "Events of gl-k8s-integrator are written by itself alone"
	noCIPods      = "pods can't run as gitlab-serviceaccount"
	noLongVolume  = "a token in a projected volume may live 24 hours at most"
	noPriority    = "pods here can't have a priority of the system"

	noPodCertificate = "PodCertificateRequests are made by the kubelet alone"
	noCapacity       = "CSIStorageCapacities are made by storage drivers alone"
	noStatus         = "is written by Kubernetes alone"
	noEndpoints      = "endpoints are made by Kubernetes"
	noExternalIPs    = "can't have externalIPs"
	rbacEscalates    = "attempting to grant RBAC permissions not currently held"
)

func token(ctx context.Context, c kubernetes.Interface, ns, name string, seconds int64) error {
	_, err := c.CoreV1().ServiceAccounts(ns).CreateToken(ctx, name, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds},
	}, metav1.CreateOptions{})
	return err
}

func bindIn(ctx context.Context, c kubernetes.Interface, ns string, b *rbacv1.RoleBinding) error {
	_, err := c.RbacV1().RoleBindings(ns).Create(ctx, b, metav1.CreateOptions{})
	return err
}

func tokenSecret(name string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}
}

func merge(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func labelPatch(key string, value any) []byte {
	return merge(map[string]any{"metadata": map[string]any{"labels": map[string]any{key: value}}})
}

func tenantAttacks() []attack {
	return []attack{
		{"relabel the namespace", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, labelPatch("pod-security.kubernetes.io/enforce", "privileged"), metav1.PatchOptions{})
			return err
		}, ownsNamespace},
		{"rewrite our annotations on the namespace", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType,
				merge(map[string]any{"metadata": map[string]any{"annotations": map[string]any{kubename.AnnotationIssuer: "https://evil.example.com"}}}), metav1.PatchOptions{})
			return err
		}, ownsNamespace},
		{"add an empty annotation to the namespace", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, []byte(`{"metadata":{"annotations":{"scheduler.alpha.kubernetes.io/node-selector":""}}}`), metav1.PatchOptions{})
			return err
		}, ownsNamespace},
		{"take our mark off the namespace", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, labelPatch(kubename.LabelManagedBy, nil), metav1.PatchOptions{})
			return err
		}, ownsNamespace},
		{"relabel the namespace by its status", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, labelPatch("pod-security.kubernetes.io/enforce", "privileged"), metav1.PatchOptions{}, "status")
			return err
		}, ownsNamespace},
		{"relabel the namespace by finalize", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			n, err := c.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
			if err != nil {
				return err
			}
			n.Labels["pod-security.kubernetes.io/enforce"] = "privileged"
			_, err = c.CoreV1().Namespaces().Finalize(ctx, n, metav1.UpdateOptions{})
			return err
		}, ownsNamespace},
		{"delete the namespace", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return c.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{})
		}, ownsNamespace},
		{"delete the quota", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return c.CoreV1().ResourceQuotas(ns).Delete(ctx, "quota", metav1.DeleteOptions{})
		}, ownsQuota},
		{"raise the quota", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().ResourceQuotas(ns).Patch(ctx, "quota", types.MergePatchType, []byte(`{"spec":{"hard":{"count/secrets":"5k"}}}`), metav1.PatchOptions{})
			return err
		}, ownsQuota},
		{"add limits", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().LimitRanges(ns).Create(ctx, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
			return err
		}, ownsQuota},
		{"add themselves to a binding of ours", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			b, err := c.RbacV1().RoleBindings(ns).Get(ctx, "gitlab-view", metav1.GetOptions{})
			if err != nil {
				return err
			}
			b.Subjects = append(b.Subjects, subject(kubename.User(99)))
			_, err = c.RbacV1().RoleBindings(ns).Update(ctx, b, metav1.UpdateOptions{})
			return err
		}, ownsObject},
		{"take the mark off a binding of ours", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.RbacV1().RoleBindings(ns).Patch(ctx, "gitlab-view", types.MergePatchType, labelPatch(kubename.LabelManagedBy, nil), metav1.PatchOptions{})
			return err
		}, ownsObject},
		{"delete a binding of ours", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return c.RbacV1().RoleBindings(ns).Delete(ctx, "gitlab-view", metav1.DeleteOptions{})
		}, ownsObject},
		{"delete all ServiceAccounts at once", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return c.CoreV1().ServiceAccounts(ns).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: kubename.LabelManagedBy})
		}, ownsObject},
		{"change the CI token's Secret", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Secrets(ns).Patch(ctx, kubename.CISecret, types.MergePatchType, []byte(`{"data":{"token":"eA=="}}`), metav1.PatchOptions{})
			return err
		}, ownsObject},
		{"delete the CI token's Secret", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return c.CoreV1().Secrets(ns).Delete(ctx, kubename.CISecret, metav1.DeleteOptions{})
		}, ownsObject},
		{"make an object with our mark", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: marked("mine")}, metav1.CreateOptions{})
			return err
		}, ownsMark},
		{"put our mark on an object", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().ConfigMaps(ns).Patch(ctx, "kube-root-ca.crt", types.MergePatchType, labelPatch(kubename.LabelManagedBy, kubename.ManagedBy), metav1.PatchOptions{})
			return err
		}, ownsMark},
		{"make a token Secret", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Secrets(ns).Create(ctx, tokenSecret("forever"), metav1.CreateOptions{})
			return err
		}, noTokenSecret},
		{"mint a ten-year token", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return token(ctx, c, ns, "default", 10*365*24*3600)
		}, noLongToken + "|" + noOwnToken},
		{"mint a token of a day and a second", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return token(ctx, c, ns, "default", 24*3600+1)
		}, noLongToken + "|" + noOwnToken},
		{"mint a token of the CI ServiceAccount", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return token(ctx, c, ns, kubename.CIServiceAccount, 600)
		}, noCIToken},
		{"lead kube-apiserver elsewhere by a pod's status", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			p, err := c.CoreV1().Pods(ns).Create(ctx, pod(func(*corev1.PodSpec) {}), metav1.CreateOptions{})
			if err != nil {
				return err
			}
			_, err = c.CoreV1().Pods(ns).Patch(ctx, p.Name, types.MergePatchType, []byte(`{"status":{"podIP":"203.0.113.7"}}`), metav1.PatchOptions{}, "status")
			return err
		}, noStatus},
		{"take an address by a Service's status", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			s, err := c.CoreV1().Services(ns).Create(ctx, service(nil), metav1.CreateOptions{})
			if err != nil {
				return err
			}
			_, err = c.CoreV1().Services(ns).Patch(ctx, s.Name, types.MergePatchType, []byte(`{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.7"}]}}}`), metav1.PatchOptions{}, "status")
			return err
		}, noStatus},
		{"take an address by externalIPs", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Services(ns).Create(ctx, service([]string{"203.0.113.7"}), metav1.CreateOptions{})
			return err
		}, noExternalIPs},
		{"write endpoints", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.DiscoveryV1().EndpointSlices(ns).Create(ctx, &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{GenerateName: "x-"}, AddressType: discoveryv1.AddressTypeIPv4,
				Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"203.0.113.7"}}},
			}, metav1.CreateOptions{})
			return err
		}, noEndpoints},
		{"bind a person", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return bindIn(ctx, c, ns, binding(metav1.ObjectMeta{Name: "x"}, "view", subject(kubename.User(99))))
		}, onlyOwnSAs},
		{"bind everybody", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return bindIn(ctx, c, ns, binding(metav1.ObjectMeta{Name: "x"}, "view",
				rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:unauthenticated"}))
		}, onlyOwnSAs},
		{"bind a ServiceAccount of another namespace", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return bindIn(ctx, c, ns, binding(metav1.ObjectMeta{Name: "x"}, "view", account(ns, "default"), account("default", "default")))
		}, onlyOwnSAs},
		{"bind that ServiceAccount by its user name", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return bindIn(ctx, c, ns, binding(metav1.ObjectMeta{Name: "x"}, "view", subject("system:serviceaccount:default:default")))
		}, onlyOwnSAs},
		{"add a person to the administrator's binding", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.RbacV1().RoleBindings(ns).Patch(ctx, "by-admin", types.MergePatchType,
				merge(map[string]any{"subjects": []rbacv1.Subject{subject(kubename.User(99))}}), metav1.PatchOptions{})
			return err
		}, onlyOwnSAs + "|" + notTheirs},
		{"take a name of ours", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return bindIn(ctx, c, ns, binding(metav1.ObjectMeta{Name: "gitlab-edit-1"}, "view", account(ns, "default")))
		}, keptName},
		{"mint a token that kube-apiserver stretches to a year", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return podToken(ctx, c, ns, 3607)
		}, noPodToken + "|" + noOwnToken},
		{"mint a token bound to a pod", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return podToken(ctx, c, ns, 3600)
		}, noPodToken + "|" + noOwnToken},
		{"mint a token of 3607 seconds", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return token(ctx, c, ns, "default", 3607)
		}, noPodToken + "|" + noOwnToken},
		{"delete the administrator's binding", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return c.RbacV1().RoleBindings(ns).Delete(ctx, "by-admin", metav1.DeleteOptions{})
		}, notTheirs},
		{"empty the administrator's binding", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.RbacV1().RoleBindings(ns).Patch(ctx, "by-admin", types.MergePatchType, []byte(`{"subjects":[]}`), metav1.PatchOptions{})
			return err
		}, notTheirs},
		{"delete all bindings at once", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return c.RbacV1().RoleBindings(ns).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
		}, notTheirs + "|" + ownsObject},
		{"ask for the certificate of a pod", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CertificatesV1().PodCertificateRequests(ns).Create(ctx, podCertificateRequest(), metav1.CreateOptions{})
			return err
		}, noPodCertificate},
		{"lie to the scheduler about storage", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.StorageV1().CSIStorageCapacities(ns).Create(ctx, &storagev1.CSIStorageCapacity{
				ObjectMeta: metav1.ObjectMeta{GenerateName: "x-"}, StorageClassName: "fast", NodeTopology: &metav1.LabelSelector{}, Capacity: new(resource.MustParse("1Ei")),
			}, metav1.CreateOptions{})
			return err
		}, noCapacity},
		{"forge an Event of ours", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Events(ns).Create(ctx, &corev1.Event{
				ObjectMeta: metav1.ObjectMeta{GenerateName: "x-"}, InvolvedObject: corev1.ObjectReference{Namespace: ns},
				Source: corev1.EventSource{Component: "gl-k8s-integrator"},
			}, metav1.CreateOptions{})
			return err
		}, noEvents},
		{"make a Deployment of pods with our mark", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.AppsV1().Deployments(ns).Create(ctx, markedDeployment("marked"), metav1.CreateOptions{})
			return err
		}, ownsMark},
		{"run a pod as the CI ServiceAccount", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Pods(ns).Create(ctx, pod(func(p *corev1.PodSpec) { p.ServiceAccountName = kubename.CIServiceAccount }), metav1.CreateOptions{})
			return err
		}, noCIPods},
		{"give a pod a token of a week", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Pods(ns).Create(ctx, pod(projected(7*24*3600)), metav1.CreateOptions{})
			return err
		}, noLongVolume},
		{"push out the pods of others", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Pods(ns).Create(ctx, pod(func(p *corev1.PodSpec) { p.PriorityClassName = "system-cluster-critical" }), metav1.CreateOptions{})
			return err
		}, noPriority},
		// What RBAC and Pod Security refuse; here to see that the roles of deploy/ leave it to them.
		{"raise its own ServiceAccount", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return bindIn(ctx, c, ns, binding(metav1.ObjectMeta{Name: "x"}, "cluster-admin", account(ns, "default")))
		}, rbacEscalates},
		{"raise its own ServiceAccount to admin", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return bindIn(ctx, c, ns, binding(metav1.ObjectMeta{Name: "x"}, "admin", account(ns, "default")))
		}, rbacEscalates},
		{"make a Role with bind", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.RbacV1().Roles(ns).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Rules: []rbacv1.PolicyRule{
				{APIGroups: []string{"rbac.authorization.k8s.io"}, Resources: []string{"clusterroles"}, Verbs: []string{"bind"}},
			}}, metav1.CreateOptions{})
			return err
		}, rbacEscalates},
		{"start a privileged pod", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			yes := true
			_, err := c.CoreV1().Pods(ns).Create(ctx, pod(func(p *corev1.PodSpec) {
				p.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
			}), metav1.CreateOptions{})
			return err
		}, "violates PodSecurity"},
		{"mount the node's disk", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Pods(ns).Create(ctx, pod(func(p *corev1.PodSpec) {
				p.Volumes = []corev1.Volume{{Name: "root", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
			}), metav1.CreateOptions{})
			return err
		}, "violates PodSecurity"},
	}
}

func service(externalIPs []string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "service-"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ExternalIPs: externalIPs, Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

func pod(change func(*corev1.PodSpec)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "pod-"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "busybox"}}},
	}
	change(&p.Spec)
	return p
}

func refused(t *testing.T, err error, want string) {
	t.Helper()
	if !apierrors.IsForbidden(err) {
		t.Errorf("got %v, want a 403 that says %q", err, want)
		return
	}
	if !slices.ContainsFunc(strings.Split(want, "|"), func(w string) bool { return strings.Contains(err.Error(), w) }) {
		t.Errorf("refused with %q, want it to say %q", err, want)
	}
}

// group is the subject of a group of people or jobs.
func group(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
}

func TestSecurityInvariantTenantFence(t *testing.T) {
	ns := managed(t, "fence-attacks")
	for who, c := range map[string]kubernetes.Interface{
		"person":            person(t, strong),
		"CI ServiceAccount": serviceAccount(t, ns, kubename.CIServiceAccount),
		"CI job":            as(t, kubename.CIJob(42), kubename.GroupCI),
		"edit that impersonates the CI ServiceAccount": impersonator(t, ns),
		"job by the agent": as(t, kubename.AgentJobPrefix+"7", "gitlab:ci_job", "gitlab:project_env:42:icc-k8s-abc123"),
	} {
		for _, a := range tenantAttacks() {
			t.Run(who+"/"+a.name, func(t *testing.T) {
				refused(t, a.do(t.Context(), c, ns), a.want)
			})
		}
	}
	for _, a := range tenantAttacks() { // edit lets less happen than the fence; whatever refuses it, it is refused
		t.Run("maintainer/"+a.name, func(t *testing.T) {
			if err := a.do(t.Context(), person(t, maintainer), ns); !apierrors.IsForbidden(err) {
				t.Errorf("got %v, want a 403", err)
			}
		})
	}
	t.Run("no role of a tenant lets them become somebody else", func(t *testing.T) {
		for who, c := range map[string]kubernetes.Interface{"CI": serviceAccount(t, ns, kubename.CIServiceAccount), "maintainer": person(t, maintainer)} {
			for _, what := range []authorizationv1.ResourceAttributes{
				{Verb: "impersonate", Resource: "users"},
				{Verb: "impersonate", Resource: "groups"},
				{Verb: "impersonate", Resource: "serviceaccounts", Namespace: "kube-system"},
				{Verb: "impersonate", Resource: "serviceaccounts", Namespace: ns},
				// Constrained impersonation asks for these, of the identity and of what is done as it.
				{Verb: "impersonate:user-info", Group: "authentication.k8s.io", Resource: "users"},
				{Verb: "impersonate:user-info", Group: "authentication.k8s.io", Resource: "groups"},
				{Verb: "impersonate:arbitrary-node", Group: "authentication.k8s.io", Resource: "nodes"},
				{Verb: "impersonate:associated-node", Group: "authentication.k8s.io", Resource: "nodes"},
				{Verb: "impersonate:serviceaccount", Group: "authentication.k8s.io", Resource: "serviceaccounts", Namespace: ns},
				{Verb: "impersonate-on:user-info:get", Resource: "secrets", Namespace: ns},
				{Verb: "impersonate-on:serviceaccount:get", Resource: "secrets", Namespace: ns},
				{Verb: "impersonate-on:arbitrary-node:create", Resource: "pods", Namespace: ns},
				{Verb: "bind", Group: rbacv1.GroupName, Resource: "clusterroles", Namespace: ns},
				{Verb: "escalate", Group: rbacv1.GroupName, Resource: "roles", Namespace: ns},
			} {
				r, err := c.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(),
					&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &what}}, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				// The built-in edit may impersonate the ServiceAccounts of its namespace: that is why the fence holds those.
				if want := who == "maintainer" && what.Verb == "impersonate" && what.Resource == "serviceaccounts" && what.Namespace == ns; r.Status.Allowed != want {
					t.Errorf("%s may %s %s in %q: %t, want %t", who, what.Verb, what.Resource, what.Namespace, r.Status.Allowed, want)
				}
			}
		}
	})
	t.Run("with edit alone", func(t *testing.T) {
		refused(t, token(t.Context(), person(t, maintainer), ns, "default", 10*365*24*3600), noLongToken)
		refused(t, token(t.Context(), person(t, maintainer), ns, kubename.CIServiceAccount, 600), noCIToken)
		_, err := person(t, maintainer).CoreV1().Secrets(ns).Create(t.Context(), tokenSecret("forever"), metav1.CreateOptions{})
		refused(t, err, noTokenSecret)
	})
	t.Run("in another namespace", func(t *testing.T) {
		other := managed(t, "fence-other")
		c := serviceAccount(t, other, kubename.CIServiceAccount)
		_, err := c.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
		refused(t, err, `cannot create resource "configmaps"`)
	})
	t.Run("a name of ours that is free", func(t *testing.T) {
		if err := as(t, "").CoreV1().Secrets(ns).Delete(t.Context(), kubename.CISecret, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := as(t, "").CoreV1().ServiceAccounts(ns).Delete(t.Context(), kubename.CIServiceAccount, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err := person(t, strong).CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: kubename.CISecret}}, metav1.CreateOptions{})
		refused(t, err, keptName)
		_, err = person(t, strong).CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: kubename.CIServiceAccount}}, metav1.CreateOptions{})
		refused(t, err, keptName)
	})
	// Nothing of it had an effect.
	for _, name := range []string{"gitlab-edit", "gitlab-view", kubename.CIRoleBinding, "by-admin"} {
		b, err := as(t, "").RbacV1().RoleBindings(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Errorf("after the attacks: %v", err)
		} else if slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool { return s.Name == kubename.User(99) }) {
			t.Errorf("after the attacks %s has the subjects %v", name, b.Subjects)
		}
	}
}

// TestTenantsWork: the fence leaves alone what a namespace is there for.
func TestTenantsWork(t *testing.T) {
	ns := managed(t, "fence-work")
	for who, c := range map[string]kubernetes.Interface{
		"maintainer": person(t, maintainer),
		"ci":         serviceAccount(t, ns, kubename.CIServiceAccount),
		"strong":     person(t, strong),
	} {
		t.Run(who, func(t *testing.T) {
			ctx := t.Context()
			ok := func(err error) {
				t.Helper()
				if err != nil {
					t.Error(err)
				}
			}
			labels := map[string]string{"app": who}
			d, err := c.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{
				ObjectMeta: metav1.ObjectMeta{Name: who, Labels: map[string]string{kubename.LabelManagedBy: "Helm"}},
				Spec: appsv1.DeploymentSpec{
					Selector: &metav1.LabelSelector{MatchLabels: labels},
					Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod(func(*corev1.PodSpec) {}).Spec},
				},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.AppsV1().Deployments(ns).UpdateScale(ctx, d.Name, &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: d.Name}, Spec: autoscalingv1.ScaleSpec{Replicas: 2}}, metav1.UpdateOptions{})
			ok(err)
			_, err = c.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: who, Labels: labels}}, metav1.CreateOptions{})
			ok(err)
			_, err = c.CoreV1().ConfigMaps(ns).Patch(ctx, who, types.MergePatchType, []byte(`{"data":{"a":"b"}}`), metav1.PatchOptions{})
			ok(err)
			_, err = c.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: who}, StringData: map[string]string{"a": "b"}}, metav1.CreateOptions{})
			ok(err)
			ok(c.CoreV1().Secrets(ns).Delete(ctx, who, metav1.DeleteOptions{}))
			_, err = c.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: who}}, metav1.CreateOptions{})
			ok(err)
			if who != "ci" { // which must not outlive its own token
				ok(token(ctx, c, ns, who, 24*3600))
			}
			ok(c.CoreV1().ConfigMaps(ns).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app=" + who}))
			review, err := c.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Verb: "create", Resource: "pods"}},
			}, metav1.CreateOptions{})
			ok(err)
			if err == nil && !review.Status.Allowed {
				t.Error("can-i create pods says no")
			}
			if who == "maintainer" { // edit writes no roles
				return
			}
			_, err = c.RbacV1().Roles(ns).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: who}, Rules: []rbacv1.PolicyRule{
				{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get"}},
			}}, metav1.CreateOptions{})
			ok(err)
			ok(bindIn(ctx, c, ns, binding(metav1.ObjectMeta{Name: who}, "view", account(ns, who))))
			ok(c.RbacV1().RoleBindings(ns).Delete(ctx, who, metav1.DeleteOptions{}))
			// The controllers made what the Deployment asked for.
			eventually(t, "the pods of "+who, func() bool {
				pods, err := c.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: "app=" + who})
				return err == nil && len(pods.Items) == 2
			})
		})
	}
}

// TestOthersAreNotFenced: administrators, controllers, and ServiceAccounts that no tenant owns.
func TestOthersAreNotFenced(t *testing.T) {
	ns := managed(t, "fence-others")
	admin, ctx := as(t, ""), t.Context()
	ok := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The garbage collector and the controllers of workloads go on in there.
	labels := map[string]string{"app": "collected"}
	_, err := person(t, maintainer).AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "collected"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod(func(*corev1.PodSpec) {}).Spec},
		},
	}, metav1.CreateOptions{})
	ok("a Deployment", err)
	pods := func() int {
		list, err := admin.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: "app=collected"})
		if err != nil {
			return -1
		}
		return len(list.Items)
	}
	eventually(t, "its pod", func() bool { return pods() == 1 })
	background := metav1.DeletePropagationBackground
	ok("deleting it", person(t, maintainer).AppsV1().Deployments(ns).Delete(ctx, "collected", metav1.DeleteOptions{PropagationPolicy: &background}))
	eventually(t, "the garbage collector to take its pod", func() bool { return pods() == 0 })

	_, err = admin.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, labelPatch("pod-security.kubernetes.io/enforce", "restricted"), metav1.PatchOptions{})
	ok("the administrator relabels a namespace", err)
	_, err = admin.RbacV1().RoleBindings(ns).Patch(ctx, "gitlab-view", types.MergePatchType, []byte(`{"subjects":[]}`), metav1.PatchOptions{})
	ok("the administrator empties a binding", err)

	_, err = admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "operator"}}, metav1.CreateOptions{})
	ok("making a namespace without our mark", err)
	for _, namespace := range []string{ns, "operator"} {
		ok("binding the operator", bindIn(ctx, admin, namespace, binding(metav1.ObjectMeta{Name: "operator"}, kubename.CIClusterRole, account("operator", "operator"))))
		operator := serviceAccount(t, "operator", "operator")
		awaitDefaultAccount(t, namespace) // a token Secret of an account that is not there yet is deleted
		// The API server learns of the binding a moment later.
		eventually(t, "an operator to make a token Secret in "+namespace, func() bool {
			_, err := operator.CoreV1().Secrets(namespace).Create(ctx, tokenSecret("for-default"), metav1.CreateOptions{})
			return err == nil
		})
		_, err = operator.CoreV1().ResourceQuotas(namespace).Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "by-operator"}}, metav1.CreateOptions{})
		ok("an operator makes a quota in "+namespace, err)
		eventually(t, "the token in "+namespace, func() bool {
			s, err := admin.CoreV1().Secrets(namespace).Get(ctx, "for-default", metav1.GetOptions{})
			return err == nil && len(s.Data["token"]) > 0
		})
	}
}

// TestNamespaceDeletionCompletes: a fence that named its friends instead of its foes would leave it hanging.
func TestNamespaceDeletionCompletes(t *testing.T) {
	mayDelete(t)
	for who, c := range map[string]func() kubernetes.Interface{
		"admin":      func() kubernetes.Interface { return as(t, "") },
		"integrator": func() kubernetes.Interface { return integrator(t) },
	} {
		ns := managed(t, "gone-"+who)
		eventually(t, "the right to delete", func() bool {
			return c().CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}) == nil
		})
		eventually(t, "the end of namespace "+ns, func() bool {
			_, err := as(t, "").CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
	}
}

// TestPoliciesHaveNoTypeErrors reads what the API server's own type checker found.
func TestPoliciesHaveNoTypeErrors(t *testing.T) {
	for _, name := range deploy.Policies() {
		eventually(t, "the type check of "+name, func() bool {
			p, err := as(t, "").AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if p.Status.TypeChecking != nil && len(p.Status.TypeChecking.ExpressionWarnings) > 0 {
				t.Fatalf("%s: %v", name, p.Status.TypeChecking.ExpressionWarnings)
			}
			return p.Status.ObservedGeneration == p.Generation
		})
	}
}

// TestApplyAgain: by Apply and by kubectl, as the documentation says.
func TestApplyAgain(t *testing.T) {
	as(t, "")
	if err := deploy.Apply(t.Context(), cluster.AdminConfig()); err != nil {
		t.Error(err)
	}
	out, err := exec.CommandContext(t.Context(), cluster.Kubectl(), "--kubeconfig", cluster.AdminKubeconfig(),
		"apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "manifests").CombinedOutput()
	if objects, _ := deploy.Manifests(); err != nil || strings.Count(string(out), "serverside-applied") != len(objects) {
		t.Errorf("kubectl apply: %v\n%s", err, out)
	}
}

// TestManySubjects: the cage looks at every subject, within the cost that the API server allows an expression.
func TestManySubjects(t *testing.T) {
	ns := managed(t, "many-subjects")
	subjects := make([]rbacv1.Subject, 0, 5000)
	for i := range cap(subjects) {
		subjects = append(subjects, subject(kubename.User(int64(1_000_000+i))))
	}
	if err := bindIn(t.Context(), integrator(t), ns, binding(marked("gitlab-view-1"), "view", subjects...)); err != nil {
		t.Errorf("5,000 subjects: %v", err)
	}
	subjects[4711].Name = "system:admin"
	refused(t, bindIn(t.Context(), integrator(t), ns, binding(marked("gitlab-view-2"), "view", subjects...)), onlyGitLab)
}
