/* test_shm_hostile.c - a peer that lies: what it writes is input. Whatever a fake
 * receiver or sender does, the real one on the other side goes on, with a typed
 * error at most, and loses no descriptor. The real one is a child of its own, so
 * that a crash is seen as one. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include "check.h"
#include "core/descriptor.h"
#include "core/ring.h"
#include "place.h"
#include "platform/bell.h"
#include "platform/memfd.h"
#include "platform/rendezvous.h"
#include "platform/socket.h"
#include "podipc.h"

/* ---- the honest side ---- */

static podipc_options options(const char *path)
{
    return (podipc_options){.method = PODIPC_SHM, .path = path, .mode = 0600, .max_bytes = 1 << 26};
}

struct shared {
    _Atomic int stop, joined;
    _Atomic uint64_t sent, received, died, corrupt;
    _Atomic int descriptors, at_start, unexpected;
};

/* Sends small tensors for as long as it may. Exits with 0 if nothing broke it. */
static _Noreturn void honest_sender(const char *path, struct shared *s)
{
    static char bytes[100000];
    podipc_sender *tx;
    podipc_options o = options(path);
    MUST(podipc_sender_open(&o, &tx, NULL) == 0);
    s->at_start = descriptors();
    for (uint64_t n = 0; !s->stop; n++) {
        podipc_tensor t = {.nbytes = n % 50 ? 200 : sizeof bytes, .ndim = 10, .type = "<f8"};
        t.type_len = 3;
        podipc_sending sending = {.tensor = &t, .data = bytes};
        int rc = podipc_send(tx, &sending, pdi_now() + 5000000, NULL, NULL);
        if (rc == -EAGAIN)
            podipc_send_cancel(tx, &sending);
        else if (rc == 0)
            s->sent++;
        else if (rc == PODIPC_EPEERDIED)
            s->died++;
        else
            s->unexpected = rc;
        podipc_stats st;
        podipc_sender_stats(tx, &st);
        s->joined = (int)st.peers;
        s->descriptors = descriptors();
    }
    podipc_sender_free(tx);
    _exit(0);
}

static _Noreturn void honest_receiver(const char *path, struct shared *s)
{
    podipc_receiver *rx;
    podipc_options o = options(path);
    MUST(podipc_receiver_open(&o, &rx, NULL) == 0);
    s->at_start = descriptors();
    uint64_t sum = 0;
    while (!s->stop) {
        podipc_message m;
        int rc = podipc_recv(rx, pdi_now() + 5000000, &m, NULL);
        if (rc == 0) {
            s->received++;
            for (uint32_t i = 0; i < m.tensor.type_len; i++)
                sum += (unsigned char)m.tensor.type[i];
            for (uint64_t i = 0; i < m.tensor.nbytes; i += 512)
                sum += ((const unsigned char *)m.data)[i];
            podipc_release(rx, &m);
        } else if (rc == PODIPC_EPEERDIED) {
            s->died++;
        } else if (rc == PODIPC_ECORRUPT) {
            s->corrupt++;
        } else if (rc != -EAGAIN && rc != PODIPC_ECLOSED && rc != PODIPC_EVERSION &&
                   rc != PODIPC_EADDRESS) {
            s->unexpected = rc;
        }
        podipc_stats st;
        podipc_receiver_stats(rx, &st);
        s->joined = (int)st.peers;
        s->descriptors = descriptors();
    }
    podipc_receiver_free(rx);
    _exit(sum == UINT64_MAX ? 2 : 0);
}

static pid_t honest(const char *path, struct shared *s, bool sender)
{
    memset((void *)s, 0, sizeof *s);
    pid_t child = fork_child();
    if (child == 0 && sender)
        honest_sender(path, s);
    if (child == 0)
        honest_receiver(path, s);
    return child;
}

static bool lives(pid_t child)
{
    int status;
    return waitpid(child, &status, WNOHANG) == 0;
}

/* It ends as if nothing had been, and holds no descriptor that it did not at first. */
static void must_be_well(pid_t child, struct shared *s)
{
    CHECK(EVENTUALLY(s->joined == 0 || !lives(child)));
    nap(20000000);
    CHECK(EVENTUALLY(s->descriptors <= s->at_start + 2)); /* an arena or two */
    s->stop = 1;
    CHECK(end_of(child) == 0);
    CHECK(s->unexpected == 0);
    if (s->unexpected)
        fprintf(stderr, "unexpected: %d\n", s->unexpected);
}

/* ---- the fake side ---- */

struct fake {
    int dir, listener, sock;
    char name[PDI_NAME];
    struct pdi_memfd mine, door, bell; /* own: ring or returns, door, bell */
    struct pdi_memfd peers;            /* the other's ring or returns */
    struct pdi_hello hello;            /* what it said */
};

static struct pdi_hello hello_of(uint32_t role)
{
    return (struct pdi_hello){
        .head = {.magic = PDI_MAGIC, .protocol = PDI_PROTOCOL, .kind = PDI_HELLO},
        .byte_order = PDI_BYTE_ORDER,
        .page_size = (uint32_t)pdi_page_size(),
        .libc = pdi_libc(),
        .role = role,
        .uid = pdi_uid(),
        .gid = pdi_gid(),
        .mode = 0600,
        .id = 4711,
    };
}

static void fake_memory(struct fake *f, uint32_t role)
{
    size_t size = role == PDI_ROLE_SENDER ? sizeof(struct pdi_ring) : sizeof(struct pdi_returns);
    MUST(pdi_memfd_create("fake", size, true, false, &f->mine, NULL) == 0);
    MUST(pdi_memfd_create("fake", sizeof(struct pdi_door), true, false, &f->door, NULL) == 0);
    MUST(pdi_memfd_create("fake", sizeof(struct pdi_bell), true, true, &f->bell, NULL) == 0);
}

static ssize_t receive(int sock, void *data, size_t cap, int fds[PDI_PACKET_FDS], int *n)
{
    int64_t end = pdi_now() + PATIENCE;
    for (;;) {
        ssize_t got = pdi_packet_recv(sock, data, cap, fds, n);
        if (got != -EAGAIN || pdi_now() > end)
            return got;
        nap(100000);
    }
}

static bool send_hello(struct fake *f, const struct pdi_hello *hello)
{
    int fds[3] = {f->mine.fd, f->door.fd, f->bell.fd};
    return pdi_packet_send(f->sock, hello, sizeof *hello, fds, 3) == 0;
}

static bool take_hello(struct fake *f, size_t size)
{
    int fds[PDI_PACKET_FDS], n;
    ssize_t got = receive(f->sock, &f->hello, sizeof f->hello, fds, &n);
    if (got != sizeof f->hello || n != 3) {
        while (got > 0 && n > 0)
            close(fds[--n]);
        return false;
    }
    close(fds[1]);
    close(fds[2]);
    return pdi_memfd_attach(fds[0], size, false, &f->peers) == 0;
}

/* A receiver that a sender has joined. */
static struct fake fake_receiver(const char *path)
{
    static int number;
    struct fake f = {.sock = -1, .peers = {.fd = -1}};
    fake_memory(&f, PDI_ROLE_RECEIVER);
    (void)snprintf(f.name, sizeof f.name, "rx.%016x", 0xabcd000 + number++);
    MUST(pdi_place_open(path, 0600, true, &f.dir, NULL) == 0);
    /* The sender may come by to tidy up just while this socket does not yet listen. */
    int rc;
    MUST(EVENTUALLY((rc = pdi_place_listen("here", f.dir, f.name, 0600, &f.listener, NULL)) !=
                    -ENOENT));
    MUST(rc == 0);
    /* Somebody may only look whether the socket's owner lives. */
    bool came = false;
    for (int tries = 0; tries < 10 && !came; tries++) {
        pdi_close(&f.sock);
        MUST(EVENTUALLY(pdi_socket_accept(f.listener, &f.sock) == 0));
        came = take_hello(&f, sizeof(struct pdi_ring));
    }
    MUST(came);
    struct pdi_hello hello = hello_of(PDI_ROLE_RECEIVER);
    MUST(send_hello(&f, &hello));
    return f;
}

static void connect_to(const char *dir_path, int dir, int *sock)
{
    bool done = false;
    int64_t end = pdi_now() + PATIENCE;
    while (!done && pdi_now() < end) {
        DIR *d = opendir(dir_path);
        for (struct dirent *e; d && (e = readdir(d)) != NULL;)
            if (strncmp(e->d_name, "rx.", 3) == 0 && pdi_place_connect(dir, e->d_name, sock) == 0) {
                done = true;
                break;
            }
        if (d)
            closedir(d);
        if (!done)
            nap(1000000);
    }
    MUST(done);
}

/* A sender that has joined the receiver in the directory. */
static struct fake fake_sender(const char *path)
{
    struct fake f = {.listener = -1, .peers = {.fd = -1}};
    fake_memory(&f, PDI_ROLE_SENDER);
    MUST(pdi_place_open(path, 0600, true, &f.dir, NULL) == 0);
    connect_to(path, f.dir, &f.sock);
    struct pdi_hello hello = hello_of(PDI_ROLE_SENDER);
    MUST(send_hello(&f, &hello));
    MUST(take_hello(&f, sizeof(struct pdi_returns)));
    return f;
}

static void fake_end(struct fake *f)
{
    pdi_close(&f->sock);
    pdi_close(&f->listener);
    if (f->name[0])
        pdi_place_sweep(f->dir, f->name);
    pdi_close(&f->dir);
    pdi_memfd_close(&f->mine);
    pdi_memfd_close(&f->door);
    pdi_memfd_close(&f->bell);
    pdi_memfd_close(&f->peers);
}

/* ---- a receiver that lies ---- */

static const struct pdi_descriptor *slot(const struct fake *f, uint64_t p)
{
    const struct pdi_ring *ring = f->peers.map;
    const struct pdi_descriptor *d = &ring->slots[p % PDI_RING_SLOTS];
    MUST(EVENTUALLY(pdi_observe64(&d->position) == p + 1));
    return d;
}

static void give_back(struct fake *f, uint64_t at, uint32_t ticket, uint32_t generation)
{
    struct pdi_returns *returns = f->mine.map;
    returns->entries[at % PDI_RETURN_SLOTS] = (uint64_t)generation << 32 | ticket;
    pdi_publish64(&returns->returned, at + 1);
}

/* One lie each; the sender must notice, or not care. */
enum lie {
    UNTAKEN_TICKET,
    TICKET_TWICE,
    UNKNOWN_TICKET,
    HUGE_TICKET,
    WRONG_GENERATION,
    TAKEN_TOO_FAR,
    TAKEN_BACKWARDS,
    RETURNED_TOO_FAR,
    RETURNED_BACKWARDS,
    LIES,
};

static void lie_to_sender(struct fake *f, enum lie lie)
{
    struct pdi_returns *returns = f->mine.map;
    /* Up to here everything is in order. */
    for (uint64_t p = 0; p < 4; p++) {
        const struct pdi_descriptor *d = slot(f, p);
        uint32_t ticket = d->ticket, generation = d->generation;
        pdi_publish64(&returns->taken, p + 1);
        if (p < 2)
            give_back(f, p, ticket, generation);
    }
    const struct pdi_descriptor *held = slot(f, 3), *untaken = slot(f, 5), *gone = slot(f, 0);
    /* Going back can only be told by who has seen how far it was before. */
    nap(50000000);
    switch (lie) {
    case UNTAKEN_TICKET:
        give_back(f, 2, untaken->ticket, untaken->generation);
        break;
    case TICKET_TWICE:
        give_back(f, 2, gone->ticket, gone->generation);
        break;
    case UNKNOWN_TICKET:
        give_back(f, 2, 9999, 0);
        break;
    case HUGE_TICKET:
        give_back(f, 2, UINT32_MAX, UINT32_MAX);
        break;
    case WRONG_GENERATION:
        give_back(f, 2, held->ticket, held->generation + 1);
        break;
    case TAKEN_TOO_FAR:
        pdi_publish64(&returns->taken, UINT64_C(1) << 40);
        break;
    case TAKEN_BACKWARDS:
        pdi_publish64(&returns->taken, 1);
        break;
    case RETURNED_TOO_FAR:
        pdi_publish64(&returns->returned, UINT64_C(1) << 40);
        break;
    default:
        pdi_publish64(&returns->returned, 1);
    }
}

static void test_receivers_that_lie(void)
{
    char *path = place_path("liars");
    struct shared *s = common(sizeof *s);
    for (int lie = 0; lie < LIES; lie++) {
        pid_t child = honest(path, s, true);
        struct fake f = fake_receiver(path);
        lie_to_sender(&f, (enum lie)lie);
        /* It is found out (a poll() sees the hang-up), or it hangs up itself. */
        struct pollfd p = {.fd = f.sock, .events = POLLRDHUP};
        CHECK(poll(&p, 1, 3000) == 1);
        if (!p.revents)
            fprintf(stderr, "lie %d was not found out\n", lie);
        fake_end(&f);
        must_be_well(child, s);
        CHECK(s->sent > 5);
        if (checks_failed)
            fprintf(stderr, "(lie %d)\n", lie);
    }
    munmap((void *)s, sizeof *s);
    (void)place_clear(path);
    free(path);
}

/* All of a receiver's memory is noise while the sender reads it. */
static void test_a_receiver_full_of_noise(uint64_t seed)
{
    char *path = place_path("noise");
    struct shared *s = common(sizeof *s);
    pid_t child = honest(path, s, true);
    for (int round = 0; round < 60 || (s->sent == 0 && round < 3000); round++) {
        struct fake f = fake_receiver(path);
        struct pdi_returns *returns = f.mine.map;
        uint64_t position = 0, returned = 0;
        for (int i = 0; i < 3000; i++) {
            uint64_t r = check_random(&seed);
            const struct pdi_ring *ring = f.peers.map;
            const struct pdi_descriptor *d = &ring->slots[position % PDI_RING_SLOTS];
            if (pdi_observe64(&d->position) == position + 1 && r % 4) {
                uint32_t ticket = d->ticket, generation = d->generation;
                if (r % 64 < 60 || i < 50) {
                    pdi_publish64(&returns->taken, ++position); /* mostly in order */
                    give_back(&f, returned++, ticket, generation);
                } else if (r % 64 < 62) {
                    give_back(&f, returned++, ticket ^ (uint32_t)(r >> 60), generation);
                } else {
                    pdi_publish64(&returns->taken, position + (r >> 62) - 1);
                }
            }
            if (r % 1000 == 0)
                pdi_publish64(&returns->returned, r >> (r % 63));
            if (r % 1001 == 0)
                pdi_publish64(&returns->taken, r >> (r % 63));
            struct pdi_door *door = f.door.map;
            pdi_poke32(&door->asleep, (uint32_t)r);
            struct pdi_bell *bell = f.bell.map;
            memcpy(bell->semaphore, &r, sizeof r);
        }
        fake_end(&f);
    }
    CHECK(s->sent > 0);
    must_be_well(child, s);
    munmap((void *)s, sizeof *s);
    (void)place_clear(path);
    free(path);
}

/* ---- a sender that lies ---- */

static void announce(struct fake *f, uint32_t id, uint64_t size, int fd)
{
    struct pdi_packet p = {
        .magic = PDI_MAGIC, .protocol = PDI_PROTOCOL, .kind = PDI_ARENA, .arena = id, .size = size};
    (void)pdi_packet_send(f->sock, &p, sizeof p, &fd, fd >= 0 ? 1 : 0);
}

/* Descriptors that are noise, and that change while they are read. */
static void test_a_sender_full_of_noise(uint64_t seed)
{
    char *path = place_path("sender");
    struct shared *s = common(sizeof *s);
    pid_t child = honest(path, s, false);
    enum { SIZE = 1 << 16 };
    for (int round = 0; round < 150; round++) {
        struct fake f = fake_sender(path);
        struct pdi_memfd arena;
        MUST(pdi_memfd_create("arena", SIZE, true, false, &arena, NULL) == 0);
        for (uint64_t i = 0; i < SIZE; i += 8) {
            uint64_t value = check_random(&seed) & (uint64_t)INT64_MAX;
            memcpy((char *)arena.map + i, &value, 8);
        }
        announce(&f, 5, SIZE, arena.fd);
        struct pdi_ring *ring = f.mine.map;
        for (uint64_t p = 0; p < 200; p++) {
            struct pdi_descriptor *d = &ring->slots[p % PDI_RING_SLOTS];
            uint64_t r = check_random(&seed);
            d->arena = 5;
            d->offset = r % SIZE & ~UINT64_C(63);
            d->nbytes = (r >> 16) % (SIZE - d->offset + 1);
            d->ndim = (uint8_t)(r >> 40 & 7);
            d->flags = 0;
            d->type_len = (uint16_t)(r >> 44 & 15);
            if (r >> 60 == 15)
                d->ndim = (uint8_t)(r >> 50);
            if (r >> 60 == 14)
                d->type_len = (uint16_t)(r >> 20);
            if (p > 20 && r % 97 == 0)
                ((unsigned char *)d)[8 + r % 120] ^= (unsigned char)(r >> 30);
            pdi_publish64(&d->position, p + 1);
            /* Still writing what has been published. */
            for (int k = 0; k < 20; k++) {
                uint64_t w = check_random(&seed);
                memcpy((char *)arena.map + w % (SIZE - 8), &w, 8);
                if (round % 2)
                    ((volatile unsigned char *)d)[8 + w % 120] ^= 1;
            }
            struct pollfd hung_up = {.fd = f.sock, .events = POLLRDHUP};
            if (p % 16 == 0 && poll(&hung_up, 1, 0) > 0)
                break;
        }
        pdi_memfd_close(&arena);
        fake_end(&f);
    }
    CHECK(EVENTUALLY(s->corrupt > 0));
    CHECK(s->received > 0);
    must_be_well(child, s);
    printf("of a lying sender: %d received, %d corrupt, %d died\n", (int)s->received,
           (int)s->corrupt, (int)s->died);
    munmap((void *)s, sizeof *s);
    (void)place_clear(path);
    free(path);
}

/* ---- the handshake ---- */

static int some_descriptor(uint64_t r)
{
    struct pdi_memfd m;
    char file[128];
    int fd;
    switch (r % 7) {
    case 0:
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    case 1:
        (void)snprintf(file, sizeof file, "%s/plain", place_base);
        fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        MUST(fd >= 0 && ftruncate(fd, 1 << 18) == 0);
        return fd;
    case 2:
        fd = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        MUST(fd >= 0 && ftruncate(fd, 1 << 18) == 0);
        return fd;
    case 3:
        return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    case 4: /* sealed, but too small */
        MUST(pdi_memfd_create("small", 8, true, r & 64, &m, NULL) == 0);
        munmap(m.map, m.size);
        return m.fd;
    case 5: /* where a receiver must not trust that nobody writes */
        MUST(pdi_memfd_create("shared", 1 << 18, true, true, &m, NULL) == 0);
        munmap(m.map, m.size);
        return m.fd;
    default:
        MUST(pdi_memfd_create("good", 1 << 18, true, false, &m, NULL) == 0);
        munmap(m.map, m.size);
        return m.fd;
    }
}

/* One packet with n descriptors, also more than podipc would send. */
static void send_raw(int sock, const void *data, size_t size, const int *fds, size_t n)
{
    char control[CMSG_SPACE(16 * sizeof(int))];
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (n > 0) {
        memset(control, 0, sizeof control);
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    }
    (void)sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void noisy_packet(int sock, uint64_t *seed)
{
    union {
        struct pdi_refusal refusal;
        struct pdi_hello hello;
        struct pdi_packet packet;
        unsigned char bytes[600];
    } p;
    uint64_t r = check_random(seed);
    memset(&p, 0, sizeof p);
    size_t size;
    switch (r >> 8 & 3) {
    case 0:
        p.packet = (struct pdi_packet){.magic = PDI_MAGIC,
                                       .protocol = PDI_PROTOCOL,
                                       .kind = (uint16_t)(r >> 10 & 7),
                                       .arena = (uint32_t)check_random(seed),
                                       .size = check_random(seed) >> (r >> 14 & 63)};
        size = sizeof p.packet;
        break;
    case 1:
        p.refusal.hello = hello_of((uint32_t)(r >> 10 & 3));
        p.refusal.hello.head.kind = PDI_REFUSE;
        p.refusal.code = (int32_t)check_random(seed);
        memset(p.refusal.text, 'x', sizeof p.refusal.text);
        size = sizeof p.refusal;
        break;
    default:
        p.hello = hello_of((uint32_t)(r >> 10 & 3));
        size = sizeof p.hello;
    }
    if (r & 1)
        for (uint64_t k = r >> 20 & 7; k > 0; k--) {
            uint64_t w = check_random(seed);
            p.bytes[w % size] ^= (unsigned char)(w >> 32);
        }
    if ((r >> 1 & 7) == 0)
        size = check_random(seed) % sizeof p.bytes;
    if ((r >> 1 & 31) == 31)
        size = 0;
    int fds[16];
    size_t n = (r >> 24 & 3) ? 3 : (r >> 26) % 10;
    for (size_t i = 0; i < n; i++)
        fds[i] = some_descriptor((r >> 32 & 1) ? 6 : check_random(seed));
    send_raw(sock, p.bytes, size, fds, n);
    for (size_t i = 0; i < n; i++)
        close(fds[i]);
}

static void test_noise_at_the_door(uint64_t seed)
{
    char *path = place_path("door");
    struct shared *s = common(sizeof *s);
    pid_t child = honest(path, s, false);
    int dir;
    MUST(EVENTUALLY(s->at_start > 0));
    MUST(pdi_place_open(path, 0600, true, &dir, NULL) == 0);
    for (int round = 0; round < 400; round++) {
        int sock;
        connect_to(path, dir, &sock);
        for (uint64_t n = check_random(&seed) % 4; n > 0; n--)
            noisy_packet(sock, &seed);
        if (check_random(&seed) % 4 == 0)
            nap(200000);
        pdi_close(&sock);
    }
    /* A packet that is empty but for its descriptors. */
    for (int round = 0; round < 50; round++) {
        int sock, fds[4];
        connect_to(path, dir, &sock);
        for (int i = 0; i < 4; i++)
            fds[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
        send_raw(sock, "", 0, fds, 4);
        for (int i = 0; i < 4; i++)
            close(fds[i]);
        pdi_close(&sock);
    }
    /* An honest one is still served. */
    uint64_t before = s->received;
    podipc_sender *tx;
    podipc_options o = options(path);
    MUST(podipc_sender_open(&o, &tx, NULL) == 0);
    podipc_tensor t = {.nbytes = 8, .type = "<f8", .type_len = 3};
    podipc_sending sending = {.tensor = &t, .data = "12345678"};
    CHECK(podipc_send(tx, &sending, pdi_now() + PATIENCE, NULL, NULL) == 0);
    CHECK(EVENTUALLY(s->received > before));
    podipc_sender_free(tx);
    must_be_well(child, s);
    pdi_close(&dir);
    munmap((void *)s, sizeof *s);
    (void)place_clear(path);
    free(path);
}

int main(void)
{
    uint64_t seed = check_seed();
    place_begin("hostile");
    test_receivers_that_lie();
    test_a_receiver_full_of_noise(seed);
    test_a_sender_full_of_noise(seed);
    test_noise_at_the_door(seed);
    place_end();
    return checks_done();
}
