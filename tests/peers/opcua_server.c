/* An OPC UA server made by open62541: opcua_server PORT COUNT COUNTING [CERTIFICATE KEY URI]
 *
 * Nodes in the namespace `urn:fieldgate:peers`: Doubles N0 to N(COUNT-1), which are 1 for ever, or with COUNTING = 1 count how often they
 * were sampled or read: a number that is missing later was lost on the way. `Ticks` (UInt32) counts five times a second. Without a certificate: security None; with one (DER, its key too):
 * all policies, any client. Anonymous either way.
 *
 * Lines on standard input: "add NAME VALUE", "write NAME VALUE", "remove NAME"; each is answered by "ok" or "error". The end of
 * the input ends it.
 */
#include <open62541/plugin/certificategroup_default.h>
#include <open62541/server.h>
#include <open62541/server_config_default.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static UA_UInt16 space;
static UA_UInt32 ticks;
/* The library logs to standard output, which is for answers. */
static FILE *answers;

static UA_StatusCode read_value(UA_Server *server, const UA_NodeId *session, void *session_context, const UA_NodeId *node,
                                void *context, UA_Boolean with_time, const UA_NumericRange *range, UA_DataValue *value)
{
    (void)server, (void)session, (void)session_context, (void)node, (void)with_time, (void)range;
    UA_StatusCode status = UA_Variant_setScalarCopy(&value->value, context, &UA_TYPES[UA_TYPES_DOUBLE]);
    value->hasValue = status == UA_STATUSCODE_GOOD;
    value->hasSourceTimestamp = true;
    value->sourceTimestamp = UA_DateTime_now();
    return status;
}

static UA_StatusCode read_count(UA_Server *server, const UA_NodeId *session, void *session_context, const UA_NodeId *node,
                                void *context, UA_Boolean with_time, const UA_NumericRange *range, UA_DataValue *value)
{
    *(double *)context += 1.0;
    return read_value(server, session, session_context, node, context, with_time, range, value);
}

static UA_StatusCode read_ticks(UA_Server *server, const UA_NodeId *session, void *session_context, const UA_NodeId *node,
                                void *context, UA_Boolean with_time, const UA_NumericRange *range, UA_DataValue *value)
{
    (void)server, (void)session, (void)session_context, (void)node, (void)context, (void)with_time, (void)range;
    UA_StatusCode status = UA_Variant_setScalarCopy(&value->value, &ticks, &UA_TYPES[UA_TYPES_UINT32]);
    value->hasValue = status == UA_STATUSCODE_GOOD;
    return status;
}

static void tick(UA_Server *server, void *data)
{
    (void)server, (void)data;
    ticks++;
}

static UA_StatusCode add(UA_Server *server, const char *name, double *value, int type, UA_CallbackValueSource source)
{
    UA_VariableAttributes attributes = UA_VariableAttributes_default;
    attributes.dataType = UA_TYPES[type].typeId;
    attributes.valueRank = UA_VALUERANK_SCALAR;
    attributes.accessLevel = UA_ACCESSLEVELMASK_READ;
    attributes.displayName = UA_LOCALIZEDTEXT("", (char *)name);
    return UA_Server_addCallbackValueSourceVariableNode(
        server, UA_NODEID_STRING(space, (char *)name), UA_NS0ID(OBJECTSFOLDER), UA_NS0ID(ORGANIZES),
        UA_QUALIFIEDNAME(space, (char *)name), UA_NS0ID(BASEDATAVARIABLETYPE), attributes, source, value, NULL);
}

static int obey(UA_Server *server, char *line)
{
    char name[64];
    double given;
    void *context = NULL;
    int found = sscanf(line, "add %63s %lf", name, &given);
    if (found == 2) {
        double *value = malloc(sizeof *value);
        UA_CallbackValueSource source = { read_value, NULL };
        *value = given;
        return value && add(server, name, value, UA_TYPES_DOUBLE, source) == UA_STATUSCODE_GOOD;
    }
    if (sscanf(line, "write %63s %lf", name, &given) == 2) {
        if (UA_Server_getNodeContext(server, UA_NODEID_STRING(space, name), &context) != UA_STATUSCODE_GOOD || !context) {
            return 0;
        }
        *(double *)context = given;
        return 1;
    }
    if (sscanf(line, "remove %63s", name) == 1) {
        return UA_Server_deleteNode(server, UA_NODEID_STRING(space, name), true) == UA_STATUSCODE_GOOD;
    }
    return 0;
}

static UA_ByteString file(const char *path)
{
    UA_ByteString bytes = UA_BYTESTRING_NULL;
    FILE *in = fopen(path, "rb");
    if (in && fseek(in, 0, SEEK_END) == 0 && UA_ByteString_allocBuffer(&bytes, (size_t)ftell(in)) == UA_STATUSCODE_GOOD) {
        rewind(in);
        bytes.length = fread(bytes.data, 1, bytes.length, in);
    }
    if (in) {
        fclose(in);
    }
    return bytes;
}

/* Answers whole lines; false at the end of the input. */
static int answer(UA_Server *server)
{
    static char text[1 << 16];
    static size_t length;
    struct pollfd input = { STDIN_FILENO, POLLIN, 0 };
    while (poll(&input, 1, 0) > 0) {
        ssize_t got = read(STDIN_FILENO, text + length, sizeof text - 1 - length);
        if (got <= 0) {
            return 0;
        }
        length += (size_t)got;
        text[length] = 0;
        for (char *end; (end = strchr(text, '\n')); length = strlen(text)) {
            *end = 0;
            fputs(obey(server, text) ? "ok\n" : "error\n", answers);
            memmove(text, end + 1, strlen(end + 1) + 1);
        }
        fflush(answers);
    }
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 4 && argc != 7) {
        return 2;
    }
    answers = fdopen(dup(STDOUT_FILENO), "w");
    if (!answers || dup2(STDERR_FILENO, STDOUT_FILENO) == -1) {
        return 1;
    }
    UA_UInt16 port = (UA_UInt16)atoi(argv[1]);
    int count = atoi(argv[2]), counting = atoi(argv[3]);
    UA_ServerConfig config;
    memset(&config, 0, sizeof config);
    UA_StatusCode status;
    if (argc == 7) {
        UA_ByteString certificate = file(argv[4]), key = file(argv[5]);
        status = UA_ServerConfig_setDefaultWithSecurityPolicies(&config, port, &certificate, &key, NULL, 0, NULL, 0, NULL, 0);
        UA_CertificateGroup_AcceptAll(&config.secureChannelPKI);
        UA_CertificateGroup_AcceptAll(&config.sessionPKI);
        UA_String_clear(&config.applicationDescription.applicationUri);
        config.applicationDescription.applicationUri = UA_STRING_ALLOC(argv[6]);
        for (size_t i = 0; i < config.endpointsSize; i++) {
            UA_String_clear(&config.endpoints[i].server.applicationUri);
            config.endpoints[i].server.applicationUri = UA_STRING_ALLOC(argv[6]);
        }
    } else {
        status = UA_ServerConfig_setMinimal(&config, port, NULL);
    }
    config.samplingIntervalLimits.min = 5;
    config.publishingIntervalLimits.min = 10;
    config.queueSizeLimits.max = 1000;
    UA_Server *server = status == UA_STATUSCODE_GOOD ? UA_Server_newWithConfig(&config) : NULL;
    if (!server) {
        return 1;
    }
    space = UA_Server_addNamespace(server, "urn:fieldgate:peers");
    UA_CallbackValueSource counter = { read_ticks, NULL }, value = { counting ? read_count : read_value, NULL };
    double *values = malloc(sizeof *values * (size_t)(count + 1));
    status = add(server, "Ticks", NULL, UA_TYPES_UINT32, counter);
    for (int i = 0; values && i < count && status == UA_STATUSCODE_GOOD; i++) {
        char name[32];
        snprintf(name, sizeof name, "N%d", i);
        values[i] = 1.0;
        status = add(server, name, &values[i], UA_TYPES_DOUBLE, value);
    }
    UA_Server_addRepeatedCallback(server, tick, NULL, 200, NULL);
    if (!values || status != UA_STATUSCODE_GOOD || UA_Server_run_startup(server) != UA_STATUSCODE_GOOD) {
        return 1;
    }
    fputs("ready\n", answers);
    fflush(answers);
    while (answer(server)) {
        UA_Server_run_iterate(server, true);
    }
    /* No farewell: what comes after is the end of the process. */
    return 0;
}
